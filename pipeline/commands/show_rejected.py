"""How dead letters look: a row, a JSON object, or one in full.

What was rejected may be hostile, so nothing of it reaches a terminal as a control character.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from sys import intern
from typing import NamedTuple

from pipeline.periods import moment
from pipeline.reject import Customer, DeadLetter, Position, customer_of
from streams.dead_letters import Place

_GAP = "  "
_CUSTOMER_CHARACTERS_MAX = 32
_MESSAGE_CHARACTERS_MIN = 20
_SHOWN_BYTES_MAX = 4_096
_DUMP_WIDTH = 16


class Entry(NamedTuple):
    """A dead letter without its bytes, so that a million fit into memory; sorts by arrival."""

    received_ms: int
    position: Position
    place: Place
    reason: str
    message: str
    remedy: str
    customer: Customer | None
    size: int
    left_out: str


def entry(letter: DeadLetter, place: Place) -> Entry:
    """What is listed of a dead letter."""
    return Entry(
        letter.original.timestamp_ms,
        letter.position,
        place,
        intern(letter.reason),
        letter.message,
        intern(letter.remedy),
        customer_of(letter.original),
        len(letter.original.value or b""),
        letter.left_out,
    )


def table(entries: Sequence[Entry], width: int | None) -> Iterator[str]:
    """One line an entry, below the names of the columns. Only messages are cut, to fit `width`."""
    rows = [("position", "arrived at", "customer", "reason", "message")]
    for each in entries:
        customer = printable(each.customer.name) if each.customer else "-"
        if len(customer) > _CUSTOMER_CHARACTERS_MAX:
            customer = f"{customer[: _CUSTOMER_CHARACTERS_MAX - 1]}…"
        reason, message = printable(each.reason), printable(each.message)
        rows.append((str(each.position), arrival(each.received_ms), customer, reason, message))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    room = None
    if width is not None:
        room = max(width - sum(widths) - len(_GAP) * len(widths), _MESSAGE_CHARACTERS_MIN)
    for *cells, message in rows:
        if room is not None and len(message) > room:
            message = f"{message[: room - 1]}…"
        padded = (cell.ljust(wide) for cell, wide in zip(cells, widths, strict=True))
        yield _GAP.join((*padded, message))


def summary(reasons: Counter[str]) -> str:
    """How many, by reason, the most frequent one first."""
    if not reasons:
        return "No rejections."
    counts = ", ".join(f"{count:,} {printable(reason)}" for reason, count in reasons.most_common())
    return f"{reasons.total():,} rejection{'' if reasons.total() == 1 else 's'}: {counts}"


def as_json(each: Entry) -> str:
    """One line of NDJSON; null are `received_at` where no calendar has it, `bytes` of what is not
    kept, and `left_out` where all is.
    """
    customer = each.customer
    return json.dumps(
        {
            "position": str(each.position),
            "source_partition": each.position.partition,
            "source_offset": each.position.offset,
            "source_index": each.position.element,
            "received_at": _instant(each.received_ms),
            "received_at_ms": each.received_ms,
            "customer": customer.name if customer else None,
            "customer_said_by": customer.said_by if customer else None,
            "reason": each.reason,
            "message": each.message,
            "remedy": each.remedy,
            "bytes": None if each.left_out else each.size,
            "left_out": each.left_out or None,
        }
    )


def in_full(letter: DeadLetter) -> Iterator[str]:
    """The lines of one dead letter: why, and all of the record as far as it can be read."""
    customer = customer_of(letter.original)
    value = letter.original.value
    yield f"Position    {letter.position}"
    yield f"Arrived at  {arrival(letter.original.timestamp_ms)}"
    yield "Customer    " + (
        f"{printable(customer.name)} (by its {customer.said_by})" if customer else "not known"
    )
    yield f"Reason      {printable(letter.reason)}"
    yield f"Message     {printable(letter.message)}"
    yield f"Remedy      {printable(letter.remedy)}"
    if letter.left_out:
        yield f"Left out    {printable(letter.left_out)}: too large to be kept"
        yield f"Original    {letter.position.in_words}, until retention deletes it"
    if "key" not in letter.left_out:
        yield f"Key         {_short(letter.original.key)}"
    for name, text in letter.original.headers:
        yield f"Header      {printable(name)}: {_short(text)}"
    if letter.left_out:
        return
    if value is None:
        yield "Original    no value: a tombstone"
        return
    yield f"Original    {len(value):,} byte{'' if len(value) == 1 else 's'}"
    if value:
        yield ""
        yield from _readable(value)


def arrival(received_ms: int) -> str:
    """When a record arrived, as `--since` takes it; its number where no calendar has it."""
    return _instant(received_ms) or f"{received_ms} ms"


def printable(text: str) -> str:
    """`text` with escapes in place of what would steer a terminal."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )


def _instant(received_ms: int) -> str | None:
    try:
        return moment(received_ms).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except OverflowError:
        return None


def _short(raw: bytes | None) -> str:
    if not raw:
        return "none" if raw is None else "empty"
    try:
        return printable(raw.decode())
    except UnicodeDecodeError:
        return f"0x{raw.hex()}"


def _readable(value: bytes) -> Iterator[str]:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        for begin in range(0, min(len(value), _SHOWN_BYTES_MAX), _DUMP_WIDTH):
            piece = value[begin : begin + _DUMP_WIDTH]
            characters = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in piece)
            yield f"{begin:08x}  {piece.hex(' '):{3 * _DUMP_WIDTH}} {characters}"
    else:
        shown = (
            text
            if len(value) <= _SHOWN_BYTES_MAX
            else value[:_SHOWN_BYTES_MAX].decode(errors="ignore")
        )
        for line in shown.split("\n"):
            yield printable(line)
    if len(value) > _SHOWN_BYTES_MAX:
        yield f"... {len(value) - _SHOWN_BYTES_MAX:,} bytes more; --raw writes all of them."
