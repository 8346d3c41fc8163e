"""`meterline replay --verify`: counts the log anew, and says where what is live differs."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from pipeline.commands.verify import Verification, take_cut
from pipeline.difference import Differences
from pipeline.errors import Stop
from pipeline.settings import read_settings
from streams.cut import explained


class Origin(StrEnum):
    """Where a replay begins."""

    METERED = "metered"
    EVENTS = "events"


def replay(
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Compare with what is live. There is no other replay yet."),
    ] = False,
    origin: Annotated[
        Origin,
        typer.Option(
            "--from",
            help="metered: count the shard log anew. events: also take in usage.events anew, by "
            "the definitions that travel on the log, and compare every event with its pack.",
        ),
    ] = Origin.METERED,
    limit: Annotated[int, typer.Option(min=0, help="List at most so many differences.")] = 100,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a report for machines instead.")
    ] = False,
    bootstrap_servers: Annotated[
        str | None, typer.Option(help="Kafka; else METERLINE_BOOTSTRAP_SERVERS.")
    ] = None,
) -> None:
    """Rebuild all totals, alerts and decisions in memory, and compare them with the live ones.

    Writes nothing, and may run while the stages do: it compares up to where they had confirmed
    their work when it began. Ends with 0 if there is no difference, with 1 on any, and with 2 if
    something cannot be read.
    """
    if not verify:
        raise Stop(
            "A replay only verifies; it never writes totals or alerts.",
            remedy="Run `meterline replay --verify`.",
        )
    began = time.monotonic()
    kafka = read_settings(bootstrap_servers=bootstrap_servers).kafka()
    differences = Differences(limit)
    progress = Progress(
        TextColumn("{task.description:<26}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    progress.disable = not progress.console.is_terminal
    with explained("meterline replay"), progress:
        cut = take_cut(kafka, with_events=origin is Origin.EVENTS)
        verification = Verification(kafka, cut, differences)
        verification.run(progress)
    seconds = time.monotonic() - began
    if as_json:
        typer.echo(json.dumps(_report(verification, seconds), indent=1))
    else:
        _show(verification, seconds)
    if differences.count:
        raise typer.Exit(1)


def _show(done: Verification, seconds: float) -> None:
    """Notes and differences, then one line that says what was compared."""
    console = Console(highlight=False, soft_wrap=True)
    for note in done.notes:
        console.print(Text(note, style="yellow"))
    differences = done.differences
    for difference in differences.kept:
        console.print(Text.assemble(("✗ ", "red"), str(difference)))
    if differences.count > len(differences.kept):
        console.print(f"… and {differences.count - len(differences.kept):,} more, see --limit.")
    compared = _compared(done)
    rate = f"{seconds:.1f} s, {done.compared.events / seconds:,.0f} events/s"
    if not differences.count:
        result = Text.assemble(("✓ verified: ", "bold green"), f"no difference in {compared}")
    else:
        kinds = ", ".join(f"{count:,} of {what}s" for what, count in differences.counts.items())
        some = "1 difference" if differences.count == 1 else f"{differences.count:,} differences"
        result = Text.assemble((f"✗ {some}", "bold red"), f" ({kinds}) in {compared}")
    console.print(result + Text(f" ({rate})."))


def _compared(done: Verification) -> str:
    seen = done.compared
    text = (
        f"{seen.packs:,} packs with {seen.events:,} events, {seen.totals:,} totals and "
        f"{seen.alerts:,} alerts of {seen.shards:,} shards"
    )
    if done.taken_in is not None:
        text += f", and in {done.taken_in.events:,} records of usage.events"
    return text


def _report(done: Verification, seconds: float) -> dict[str, object]:
    differences = done.differences
    return {
        "verified": not differences.count,
        "compared": asdict(done.compared)
        | ({} if done.taken_in is None else {"records": asdict(done.taken_in)}),
        "seconds": round(seconds, 3),
        "notes": done.notes,
        "differences": differences.count,
        "differences_by_kind": dict(differences.counts),
        "listed": [asdict(each) | {"sentence": str(each)} for each in differences.kept],
    }
