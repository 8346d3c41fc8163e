"""Dead letters: an unusable record, byte for byte, with reason and remedy in headers; and back.

A record that may be too large for a letter is not kept in whole, and the letter says what it lacks.

Intake appends its headers after those that the record came with. An original may have headers of
the same names, because it was a dead letter that somebody sent again as it was, or because its
producer is hostile: so the last ones, in their order, are intake's, and nothing else is looked at.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import structs

from pipeline.errors import Reject, Stop
from pipeline.record import Outgoing, Record
from schemas import rejection, topics
from schemas.usage_event import HEADER_PREFIX

#: What intake appends, in this order.
_ADDED = (
    rejection.HEADER_TOPIC,
    rejection.HEADER_PARTITION,
    rejection.HEADER_OFFSET,
    rejection.HEADER_STAGE,
    rejection.HEADER_RECEIVED_AT,
    rejection.HEADER_REASON,
    rejection.HEADER_MESSAGE,
    rejection.HEADER_REMEDY,
    rejection.HEADER_INDEX,
)

#: Without what of a record a letter may have to do, the least first.
_WITHOUT: tuple[dict[str, Any], ...] = (
    {},
    {"value": None},
    {"key": None, "value": None, "headers": ()},
)

#: On its way a header also has two lengths of up to five bytes.
_HEADER_LENGTHS_BYTES = 10


def rejected(record: Record, reason: Reject) -> Outgoing:
    """`record` on its way to usage.rejected: key, value and headers as they came, and why.

    What of it may not fit is left out, and said to be.
    """
    kept, left_out = _fitting(record)
    message = f"Kept without its {left_out}. {reason.message}" if left_out else reason.message
    why = (
        record.topic.encode(),
        b"%d" % record.partition,
        b"%d" % record.offset,
        b"intake",
        b"%d" % record.timestamp_ms,
        reason.reason.encode(),
        message.encode("utf-8", "backslashreplace"),
        reason.remedy.encode("utf-8", "backslashreplace"),
        b"%d" % record.index,
    )
    headers = (*kept.headers, *zip(_ADDED, why, strict=True))
    if left_out:
        headers += ((rejection.HEADER_LEFT_OUT, left_out.encode()),)
    return Outgoing(topics.REJECTED.name, kept.value, key=kept.key, headers=headers)


def _fitting(record: Record) -> tuple[Record, str]:
    """As much of a record as surely fits into its letter, and the names of what is left out."""
    for without in _WITHOUT:
        kept = structs.replace(record, **without)
        if _bytes_at_most(kept) <= rejection.ORIGINAL_BYTES_MAX:
            break
    return kept, ", ".join(without)


def _bytes_at_most(record: Record) -> int:
    headers = sum(
        len(name.encode()) + len(text or b"") + _HEADER_LENGTHS_BYTES
        for name, text in record.headers
    )
    return len(record.key or b"") + len(record.value or b"") + headers


class Position(NamedTuple):
    """Where an original lies on usage.events; names its rejection, here and in ClickHouse.

    `element` is its place in a record that held many events, else 0. A record that could not be
    taken apart has no events, so no two originals share a position.
    """

    partition: int
    offset: int
    element: int = 0

    def __str__(self) -> str:
        whole = f"{self.partition}/{self.offset}"
        return f"{whole}/{self.element}" if self.element else whole

    @property
    def in_words(self) -> str:
        """For a sentence."""
        whole = f"usage.events-{self.partition} at offset {self.offset}"
        return f"{whole}, event {self.element}" if self.element else whole


def position_of(record: Record) -> Position:
    """Where a record of usage.events lies, or an event of one."""
    return Position(record.partition, record.offset, record.index)


class Customer(NamedTuple):
    """Whose record it seems to be, and what says so."""

    name: str
    said_by: Literal["subject", "key"]


class DeadLetter(NamedTuple):
    """A rejection, opened: the record as intake read it, and why it was rejected.

    `left_out` names what was too large to be kept: "value", or "key, value, headers".
    """

    original: Record
    reason: str
    message: str
    remedy: str
    left_out: str = ""

    @property
    def position(self) -> Position:
        """Where the original lies."""
        return position_of(self.original)


def open_letter(record: Record) -> DeadLetter:
    """The inverse of `rejected`: the original is equal to the record that was rejected.

    It has no value, or neither key, value nor headers, where these are left out.

    Raises:
        Stop: when intake did not write it.
    """
    left_out = ""
    if dict(record.headers[-1:]).get(rejection.HEADER_LEFT_OUT):
        *headers, (_, named) = record.headers
        left_out = named.decode(errors="replace")
        record = structs.replace(record, headers=tuple(headers))
    last = record.headers[-1:]
    if last and last[0][0] != rejection.HEADER_INDEX:
        # Written before there were packed records.
        record = structs.replace(record, headers=(*record.headers, (rejection.HEADER_INDEX, b"0")))
    theirs, ours = record.headers[: -len(_ADDED)], record.headers[-len(_ADDED) :]
    try:
        if tuple(name for name, _ in ours) != _ADDED:
            raise ValueError("its last headers are not those of intake")
        topic, partition, offset, _, received_ms, reason, message, remedy, index = (
            text.decode(errors="replace") for _, text in ours
        )
        original = Record(
            topic,
            int(partition),
            int(offset),
            int(received_ms),
            record.key,
            record.value,
            theirs,
            int(index),
        )
    except (AttributeError, ValueError) as error:  # a header may have no value
        raise Stop(
            f"{record.topic}-{record.partition} at offset {record.offset} is no rejection of "
            f"Meterline: {error}.",
            remedy="Find the program that wrote it; only Meterline writes to this topic.",
        ) from None
    return DeadLetter(original, reason, message, remedy, left_out)


class _Said(msgspec.Struct, gc=False):
    subject: str


_said = msgspec.json.Decoder(_Said)


def customer_of(record: Record) -> Customer | None:
    """Whose record of usage.events it is, as well as can be said of what is no event.

    The subject counts, as it would for intake: the CloudEvents header in binary mode, else that of
    the JSON document, if it is one. Where there is none, the record's key, which producers set to
    the customer. None without either.
    """
    attributes = {name.lower(): text for name, text in record.headers}
    try:
        if any(name.startswith(HEADER_PREFIX) for name in attributes):
            return Customer(attributes[f"{HEADER_PREFIX}subject"].decode(), "subject")
        return Customer(_said.decode(record.value or b"").subject, "subject")
    except (AttributeError, LookupError, msgspec.MsgspecError, ValueError, RecursionError):
        key = record.key
        return Customer(key.decode(errors="backslashreplace"), "key") if key else None


class Wanted(NamedTuple):
    """Which dead letters are meant; what is not said is not asked for.

    The original arrived at or after `since_ns` and before `until_ns`, nanoseconds since 1970.
    """

    reasons: Set[str] = frozenset()
    customer: str | None = None
    since_ns: int | None = None
    until_ns: int | None = None
    positions: Set[Position] = frozenset()

    def takes(self, letter: DeadLetter) -> bool:
        """Whether it is one of them."""
        received_ns = letter.original.timestamp_ms * 1_000_000
        if self.reasons and letter.reason not in self.reasons:
            return False
        if self.positions and letter.position not in self.positions:
            return False
        if self.since_ns is not None and received_ns < self.since_ns:
            return False
        if self.until_ns is not None and received_ns >= self.until_ns:
            return False
        if self.customer is None:
            return True
        customer = customer_of(letter.original)
        return customer is not None and customer.name == self.customer
