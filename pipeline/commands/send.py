"""`meterline send FILE|-`: usage events from a file, or from what another program writes."""

from __future__ import annotations

import contextlib
import csv
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, BinaryIO

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from pipeline.errors import MeterlineError, Stop
from pipeline.ingest_csv import CsvMapping, parse_mapping, read_csv
from pipeline.ingest_file import Line, read_ndjson, unmarked
from pipeline.settings import Settings, read_settings
from schemas import topics
from streams.cluster import require_topic
from streams.delivery_failures import DeliveryFailed
from streams.producer import KEEPS_ARRIVALS, Producer

_STDIN = Path("-")
_DRAW_SECONDS = 0.1

#: More than any event has: what is too long is for intake to reject, and may not be mapped at all.
_CELL_CHARACTERS_MAX = 16 * 1024 * 1024

#: How long a broker that went away has to come back.
_TIMEOUT_SECONDS = 60.0


class Format(StrEnum):
    """How a file is written."""

    NDJSON = "ndjson"
    CSV = "csv"


@dataclass
class Sent:
    """What became of the lines so far.

    `failed` were not delivered; `why` says the last reason, and `remedy` what helps.
    """

    lines: int = 0
    failed: int = 0
    why: str = ""
    remedy: str = ""

    @property
    def delivered(self) -> int:
        """How many are safe in Kafka, once all is flushed."""
        return self.lines - self.failed

    def note(self, failure: DeliveryFailed) -> None:
        """Count events that were not delivered."""
        self.failed += failure.count
        self.why, self.remedy = failure.why, failure.remedy


def send_lines(
    producer: Producer,
    lines: Iterable[Line],
    on_progress: Callable[[int], None] = lambda _: None,
    sent: Sent | None = None,
) -> Sent:
    """Send every line and wait until all are safe; `on_progress` hears of each with its number.

    What is not delivered is counted, and the rest is sent all the same. `sent` is updated on the
    way, for whoever interrupts this.
    """
    sent = Sent() if sent is None else sent
    for line in lines:
        try:
            producer.send_raw(line.value, key=line.key, timestamp_ms=line.timestamp_ms)
        except DeliveryFailed as failure:
            sent.note(failure)  # of earlier ones: this one is queued
        except Stop as refusal:
            sent.failed += 1
            sent.why, sent.remedy = refusal.message, refusal.remedy
        sent.lines += 1
        on_progress(sent.lines)
    flush(producer, sent)
    return sent


def flush(producer: Producer, sent: Sent) -> None:
    """Wait until all that was sent is safe, or known not to be."""
    try:
        producer.flush()
    except DeliveryFailed as failure:
        sent.note(failure)


def send(
    file: Annotated[Path, typer.Argument(help="A file of events, or - for standard input.")],
    bootstrap_servers: Annotated[
        str | None, typer.Option(help="Kafka; else METERLINE_BOOTSTRAP_SERVERS.")
    ] = None,
    written_as: Annotated[
        Format | None,
        typer.Option("--format", help="Else by the file's name: .csv, or one CloudEvent a line."),
    ] = None,
    mapped: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="TARGET=COLUMN", help="CSV: time=TIMESTAMP, data.n=Tokens."),
    ] = None,
    constant: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="TARGET=TEXT", help="CSV: type=llm.request."),
    ] = None,
    utc: Annotated[bool, typer.Option("--utc", help="CSV: times without offset are UTC.")] = False,
) -> None:
    """Send usage events to Kafka, as they stand; broken ones end as rejections, with the reason.

    One CloudEvent (JSON) a line, or CSV with --map and --set. Sending a file again is safe: events
    with the same source and id count once. In CSV without them, the source is the file's name and
    the ids are the rows' numbers: a file that has grown may be sent again, but another one of the
    same name needs --set source=..., or its rows are taken for those of the first.

    Only the attribute receivedat is taken out: it is when the event arrived, else that is now.
    """
    settings = read_settings(bootstrap_servers=bootstrap_servers)
    # To be asked to end is the same as Ctrl-C: flush and say how far it came.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console, errors = Console(highlight=False), Console(stderr=True, highlight=False)
    sent, fault, interrupted = Sent(), None, False
    is_csv = written_as is Format.CSV or (written_as is None and file.suffix.lower() == ".csv")
    if not is_csv and (mapped or constant or utc):
        raise Stop(
            f"--map, --set and --utc are for CSV, and {file} is read as one CloudEvent a line.",
            remedy="Add --format csv if it is CSV, else leave them out.",
        )
    mapping = _mapping(file, mapped or [], constant or [], utc) if is_csv else None
    # It is the process's, so it is set here.
    csv.field_size_limit(_CELL_CHARACTERS_MAX)
    with _opened(file) as opened:
        lines = read_csv(opened, mapping) if mapping else read_ndjson(unmarked(opened))
        require_topic(settings.kafka(), topics.EVENTS.name)
        begun = time.monotonic()
        with _bar(opened, file, errors) as draw, _producer(settings) as producer:
            try:
                send_lines(producer, lines, draw, sent)
            except KeyboardInterrupt:
                interrupted = True
            except (MeterlineError, OSError) as error:
                fault = error
            flush(producer, sent)
    _report(console, errors, sent, time.monotonic() - begun, interrupted)
    if mapping and mapping.identifies_by_file:
        console.print(
            Text(
                f"Their source is the file's name, {mapping.name}, and their ids are the rows' "
                "numbers. Another file of that name needs --set source=..."
            ),
            soft_wrap=True,
        )
    if isinstance(fault, OSError):
        raise Stop(f"{file} cannot be read to its end: {fault}.", remedy="Send it again.")
    if fault is not None:
        raise fault
    if sent.failed or interrupted:
        raise typer.Exit(130 if interrupted else 1)


@contextlib.contextmanager
def _producer(settings: Settings) -> Iterator[Producer]:
    kafka = {**settings.kafka(), **KEEPS_ARRIVALS, "log_level": "2"}
    producer = Producer(settings.bootstrap_servers, timeout_seconds=_TIMEOUT_SECONDS, kafka=kafka)
    try:
        yield producer
    finally:
        with contextlib.suppress(DeliveryFailed):
            producer.close()


def _mapping(file: Path, mapped: list[str], constant: list[str], utc: bool) -> CsvMapping:
    mapping = parse_mapping(file.name, mapped, constant, utc)
    if file == _STDIN and "source" not in {*mapping.columns, *mapping.constants}:
        raise Stop(
            "What comes on standard input has no name that could be the events' source.",
            remedy="Name it with --set source=..., the same when you send it again.",
        )
    return mapping


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    if file == _STDIN:
        if sys.stdin is None:
            raise Stop(
                "Standard input is closed.", remedy="Name a file, or write to standard input."
            )
        yield sys.stdin.buffer
        return
    try:
        opened = file.open("rb")
    except OSError as error:
        raise Stop(
            f"{file} cannot be read: {error.strerror}.",
            remedy="Name a file that this user may read, or - for standard input.",
        ) from None
    with opened:
        yield opened


@contextlib.contextmanager
def _bar(opened: BinaryIO, file: Path, console: Console) -> Iterator[Callable[[int], None]]:
    """Draws how far it came: in bytes of the file, or in events where no end is known."""
    ends = file != _STDIN and file.is_file()
    columns = (BarColumn(), DownloadColumn(), TimeRemainingColumn()) if ends else ()
    with Progress(
        TextColumn("{task.description}"), *columns, console=console, transient=True
    ) as progress:
        task = progress.add_task("", total=file.stat().st_size if ends else None)
        drawn_at = 0.0

        def draw(count: int) -> None:
            nonlocal drawn_at
            if (now := time.monotonic()) - drawn_at > _DRAW_SECONDS:
                drawn_at = now
                read = opened.tell() if ends else count
                progress.update(task, completed=read, description=f"sent {count:,} events")

        yield draw


def _report(
    console: Console, errors: Console, sent: Sent, seconds: float, interrupted: bool
) -> None:
    until = "Interrupted. " if interrupted else ""
    events = f"{sent.delivered:,} event{'' if sent.delivered == 1 else 's'}"
    rate = sent.delivered / max(seconds, 0.001)
    console.print(f"{until}Sent {events} in {seconds:.1f} s ({rate:,.0f} a second).")
    if sent.failed:
        errors.print(Text(f"{sent.failed:,} were not delivered: {sent.why}", style="red"))
        errors.print(Text(f"Remedy: {sent.remedy}"))
