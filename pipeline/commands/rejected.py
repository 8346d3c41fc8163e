"""`meterline rejected list|show|replay`: dead letters, looked at and sent again.

They are read from usage.rejected, which has every byte of them and is written in intake's own
transaction; ClickHouse may lag behind, and holds neither keys nor headers.

Nothing marks a rejection as replayed. To know, one would have to search usage.events or keep a
record elsewhere that could itself be wrong, and replaying twice does no harm: `replay` prints where
each original lies now, and ClickHouse says there what became of it.
"""

from __future__ import annotations

import heapq
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from functools import partial
from typing import Annotated, get_args

import typer

from pipeline.commands.show_rejected import (
    Entry,
    arrival,
    as_json,
    entry,
    in_full,
    summary,
    table,
)
from pipeline.errors import Stop
from pipeline.instant import parse_instant
from pipeline.periods import DISORDER_DAYS
from pipeline.reject import Position, Wanted
from pipeline.settings import read_settings
from schemas import topics
from schemas.rejection import Reason
from streams.dead_letters import letters, oldest_arrival_ms, require_topics, resend

_TABLE_ROWS_MAX = 100

rejected = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Dead letters: what intake could not use and why, and back to usage.events. One is named "
    "PARTITION/OFFSET, after where its original lies on usage.events, or PARTITION/OFFSET/INDEX "
    "where it came in a record with others; in ClickHouse these are source_partition, "
    "source_offset and source_index.",
)


class Arrival(StrEnum):
    """The arrival time of a replayed record, by which tally judges whether it is late.

    NOW is the default, because it changes no closed period: what is too late by now is set aside as
    late, on record. ORIGINAL counts it as if it had been usable when it came, also in a period that
    was billed meanwhile; that is for a person to decide, after a fault of ours or of the
    definitions.
    """

    NOW = "now"
    ORIGINAL = "original"


def _reasons(given: list[str] | None) -> list[str] | None:
    for reason in given or ():
        if reason not in get_args(Reason):
            raise typer.BadParameter(f"{reason!r} is none of {', '.join(get_args(Reason))}.")
    return given


def _customer(given: str | None) -> str | None:
    # As an unset variable of a shell is.
    if given == "":
        raise typer.BadParameter("'' names nobody; leave --customer out for everybody.")
    return given


def _instant_ns(text: str) -> int:
    instant_ns = parse_instant(text if len(text) > len("2026-11-20") else f"{text}T00:00:00Z")
    if instant_ns is None:
        raise typer.BadParameter(
            f"{text!r} is neither RFC 3339 with an offset, like 2026-11-20T09:30:00Z, nor a date."
        )
    return instant_ns


def _position(text: str) -> Position:
    numbers = text.split("/")
    if not text.isascii() or not 2 <= len(numbers) <= 3 or not all(map(str.isdecimal, numbers)):
        raise typer.BadParameter(
            f"{text!r} is not PARTITION/OFFSET, like 3/1207, or PARTITION/OFFSET/INDEX."
        )
    return Position(*map(int, numbers))


ReasonOption = Annotated[
    list[str] | None,
    typer.Option("--reason", callback=_reasons, help="Only this reason; may be given repeatedly."),
]
CustomerOption = Annotated[
    str | None,
    typer.Option(
        callback=_customer,
        help="Only this customer: the subject where it can be read, else the key.",
    ),
]
SinceOption = Annotated[
    int | None,
    typer.Option(
        parser=_instant_ns, metavar="RFC3339", help="Arrived then or later; or a UTC date."
    ),
]
UntilOption = Annotated[
    int | None,
    typer.Option(parser=_instant_ns, metavar="RFC3339", help="Arrived before then; or a date."),
]
ServersOption = Annotated[str | None, typer.Option(help="Kafka; else METERLINE_BOOTSTRAP_SERVERS.")]


@rejected.command("list")
def list_(
    reason: ReasonOption = None,
    customer: CustomerOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help=f"Only the newest; {_TABLE_ROWS_MAX} in a table, all as JSON."),
    ] = None,
    as_lines: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    bootstrap_servers: ServersOption = None,
) -> None:
    """List dead letters by arrival, newest last, and count them by reason."""
    kafka = _kafka(bootstrap_servers)
    wanted = Wanted(frozenset(reason or ()), customer, since, until)
    if limit is None and not as_lines:
        limit = _TABLE_ROWS_MAX
    reasons: Counter[str] = Counter()
    entries = _counted(_entries(kafka, wanted), reasons)
    newest = sorted(entries if limit is None else heapq.nlargest(limit, entries))
    if as_lines:
        for each in newest:
            typer.echo(as_json(each))
        return
    _show(newest, reasons)


@rejected.command()
def show(
    position: Annotated[
        Position, typer.Argument(parser=_position, metavar="POSITION", help="Like 3/1207.")
    ],
    raw: Annotated[
        bool, typer.Option("--raw", help="Write the original value alone, byte for byte.")
    ] = False,
    bootstrap_servers: ServersOption = None,
) -> None:
    """Show one dead letter: why it was rejected, its key, headers and original value."""
    wanted = Wanted(positions=frozenset([position]))
    for _, letter in letters(_kafka(bootstrap_servers), wanted):
        if raw:
            if letter.left_out:
                raise _not_kept(position)
            sys.stdout.buffer.write(letter.original.value or b"")
            return
        for line in in_full(letter):
            typer.echo(line)
        return
    raise _no_rejection([position])


@rejected.command()
def replay(
    positions: Annotated[
        list[Position] | None,
        typer.Argument(
            parser=_position, metavar="POSITION", help="Like 3/1207; else by the filters."
        ),
    ] = None,
    reason: ReasonOption = None,
    customer: CustomerOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All there are, without position and filter.")
    ] = False,
    arrival_time: Annotated[
        Arrival,
        typer.Option(
            "--arrival",
            help="now: what is too late by now is set aside as late, and no closed period changes. "
            "original: counts as if it had been usable when it came, also in a closed period.",
        ),
    ] = Arrival.NOW,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list what would be sent.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    bootstrap_servers: ServersOption = None,
) -> None:
    """Send originals to usage.events again: the same key, value and headers, byte for byte.

    Each is judged anew: what counted meanwhile is a duplicate, what is still unusable is a new
    rejection. Replaying twice counts once. What was too large to be kept with its rejection is not
    sent: its service has to send less in a record.
    """
    wanted = Wanted(
        frozenset(reason or ()), customer, since, until, positions=frozenset(positions or ())
    )
    if wanted == Wanted() and not everything:
        raise Stop(
            "Nothing says which rejections to replay.",
            remedy="Name positions, give a filter, or give --all.",
        )
    kafka = _kafka(bootstrap_servers)
    entries = sorted(_entries(kafka, wanted))
    if missing := wanted.positions - {each.position for each in entries}:
        raise _no_rejection(missing)
    entries = _kept(entries, wanted)
    if arrival_time is Arrival.ORIGINAL:
        _require_arrivals_hold(kafka, entries)
    if dry_run or not yes or not entries:
        _show(entries[-_TABLE_ROWS_MAX:], Counter(each.reason for each in entries))
    if dry_run or not entries:
        return
    if not yes:
        typer.confirm(f"Send to usage.events, arriving {arrival_time.value}?", abort=True, err=True)
    send_originals(kafka, wanted, entries, arrival_time)


def send_originals(
    kafka: Mapping[str, str], wanted: Wanted, entries: Sequence[Entry], arrival_time: Arrival
) -> None:
    """Send `entries`, which are wanted, and say where each lies then, also before a failure.

    Raises:
        DeliveryFailed: some are not safe.
    """
    places = {each.place for each in entries}
    # Read again, since not all of them may fit into memory; but not what was rejected meanwhile,
    # perhaps of what is being sent.
    found = letters(kafka, wanted)
    chosen = (letter for place, letter in found if place in places)
    sent: list[tuple[Position, Position]] = []
    try:
        resend(
            kafka,
            chosen,
            lambda old, new: sent.append((old, new)),
            keep_arrival=arrival_time is Arrival.ORIGINAL,
        )
    finally:
        for old, new in sent:
            typer.echo(f"{old} → {new}")
        typer.echo(f"Sent {len(sent):,} of {len(entries):,} to {topics.EVENTS.name}.")


def _kept(entries: Sequence[Entry], wanted: Wanted) -> list[Entry]:
    """Those whose originals can be sent; of the others a person hears."""
    kept = [each for each in entries if not each.left_out]
    lacking = [each.position for each in entries if each.left_out]
    if lacking and wanted.positions:
        raise _not_kept(lacking[0])
    if lacking:
        typer.echo(f"Not to be sent: {len(lacking):,}. {_not_kept(lacking[0])}", err=True)
    return kept


def _require_arrivals_hold(kafka: Mapping[str, str], entries: Sequence[Entry]) -> None:
    oldest_ms = oldest_arrival_ms(kafka)
    if too_old := sum(each.received_ms < oldest_ms for each in entries):
        raise Stop(
            f"{too_old:,} of these {len(entries):,} arrived before {arrival(oldest_ms)}, more than "
            f"{DISORDER_DAYS} days before the newest event: with that arrival time they might not "
            "be recognised as copies of what counted meanwhile.",
            remedy="Replay these with --arrival now, and the others with --since.",
        )


def _kafka(bootstrap_servers: str | None) -> dict[str, str]:
    kafka = read_settings(bootstrap_servers=bootstrap_servers).kafka()
    require_topics(kafka)
    return kafka


def _entries(kafka: Mapping[str, str], wanted: Wanted) -> Iterator[Entry]:
    found = letters(kafka, wanted, partial(typer.echo, err=True))
    return (entry(letter, place) for place, letter in found)


def _counted(entries: Iterator[Entry], reasons: Counter[str]) -> Iterator[Entry]:
    for each in entries:
        reasons[each.reason] += 1
        yield each


def _show(newest: Sequence[Entry], reasons: Counter[str]) -> None:
    if newest:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        for line in table(newest, width):
            typer.echo(line)
        typer.echo()
    shown = f" (the newest {len(newest):,} are shown)" if len(newest) < reasons.total() else ""
    typer.echo(summary(reasons) + shown)


def _no_rejection(positions: Iterable[Position]) -> Stop:
    names = ", ".join(map(str, sorted(positions)))
    return Stop(
        f"There is no rejection of {names}, or the filters leave it out.",
        remedy="See which there are with `meterline rejected list`.",
    )


def _not_kept(position: Position) -> Stop:
    return Stop(
        f"The original of {position} was too large to be kept with its rejection.",
        remedy="Have its service send it again in smaller records, under the same ids. Until "
        f"retention deletes it, any client of Kafka can read it from {position.in_words}.",
    )
