"""Bill: freeze what a total grew by into a delta, before anything is sent.

A fold over `usage.totals`, one ledger a shard. What it returns is written in one transaction with
the input offsets, so a delta is frozen exactly once; delivering it is another stage's work, which
may then fail and repeat as it likes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from pipeline.errors import Stop
from pipeline.record import Outgoing
from schemas.billing import Delta, Frozen
from schemas.definitions import Definitions
from schemas.frame import Frame, Kind
from schemas.quantity import from_plain, plain
from schemas.topics import BILL_STATE, OUTBOX

#: Stripe refuses a meter event value with more (`meter_event_value_too_many_digits`).
DIGITS_MAX = 15

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Key(NamedTuple):
    customer: str
    meter: str
    period_start_ms: int


class _Newest(NamedTuple):
    period_end_ms: int
    usage: str
    as_of_ms: int


class Bill:
    """What one shard has frozen so far, and the step that freezes more."""

    def __init__(self, shard: int, frozen: Iterable[Frozen] = ()) -> None:
        """`frozen` is the shard's `usage.bill.state` in its order; the last of a key wins."""
        self._shard = shard
        self._frozen: dict[_Key, tuple[int, int]] = {}
        for state in frozen:
            key = _Key(state.customer, state.meter, _milliseconds(state.period_start))
            self._frozen[key] = (from_plain(state.value), state.sequence)

    def __len__(self) -> int:
        """How many totals have been frozen."""
        return len(self._frozen)

    def step(
        self, definitions: Definitions, written_ms: int, frames: Sequence[Frame]
    ) -> list[Outgoing]:
        """The deltas of a batch of totals frames and the state after them, to be written together.

        The newest frame was written at `written_ms`, in milliseconds since 1970. No delta is later:
        Stripe would refuse what a producer's clock that is ahead says.

        Billed are meters with `stripe` and customers with a `stripe_customer_id`, at what
        `definitions` say now. Each (customer, meter, period) is frozen at most once a batch, at
        its newest usage. A customer who gets its Stripe id later is billed in full, but each
        period only with its next total: totals seen before are not read again.

        Raises:
            Stop: for a frame that does not carry totals.
        """
        newest = {key: row for frame in frames for key, row in _rows(frame)}
        outgoing: list[Outgoing] = []
        for key, row in newest.items():
            names = _names(definitions, key)
            if names is not None:
                at_ms = min(row.as_of_ms, written_ms)
                outgoing += self._freeze(key, row._replace(as_of_ms=at_ms), *names)
        return outgoing

    def _freeze(
        self, key: _Key, newest: _Newest, event_name: str, stripe_customer_id: str
    ) -> Iterator[Outgoing]:
        frozen, sequence = self._frozen.get(key, (0, 0))
        usage = from_plain(newest.usage)
        if usage == frozen:
            return
        for units in split(usage - frozen):
            delta = Delta(
                identifier=identifier(key.meter, key.customer, key.period_start_ms, sequence),
                customer=key.customer,
                stripe_customer_id=stripe_customer_id,
                meter=key.meter,
                event_name=event_name,
                period_start=_instant(key.period_start_ms),
                period_end=_instant(newest.period_end_ms),
                sequence=sequence,
                value=plain(units),
                timestamp=_timestamp(key.period_start_ms, newest.period_end_ms, newest.as_of_ms),
            )
            yield self._outgoing(OUTBOX.name, delta.identifier, delta)
            sequence += 1
        self._frozen[key] = (usage, sequence)
        state = Frozen(
            customer=key.customer,
            meter=key.meter,
            period_start=_instant(key.period_start_ms),
            value=plain(usage),
            sequence=sequence,
        )
        name = json.dumps([key.customer, key.meter, _text(key.period_start_ms)])
        yield self._outgoing(BILL_STATE.name, name, state)

    def _outgoing(self, topic: str, key: str, value: Delta | Frozen) -> Outgoing:
        content = value.model_dump_json().encode()
        return Outgoing(topic, content, key=key.encode(), partition=self._shard)


def _names(definitions: Definitions, key: _Key) -> tuple[str, str] | None:
    """The Stripe meter's event name and the Stripe customer, None where nothing is billed."""
    meter = definitions.meters_by_slug.get(key.meter)
    customer = definitions.customers_by_id.get(key.customer)
    if meter is None or meter.stripe is None:
        return None
    if customer is None or customer.stripe_customer_id is None:
        return None
    return meter.stripe.event_name, customer.stripe_customer_id


def identifier(meter: str, customer: str, period_start_ms: int, sequence: int) -> str:
    """The name under which Stripe counts one delta once; 74 characters, Stripe takes 100."""
    parts = json.dumps([meter, customer, _text(period_start_ms), sequence])
    return f"meterline-{hashlib.sha256(parts.encode()).hexdigest()}"


def split(units: int) -> list[int]:
    """Exact addends of `units`, each of at most 15 significant digits, the largest first.

    Zeros at either end of a number are not significant, so even a sum of a hundred digits takes
    only a handful.
    """
    addends = []
    while units:
        magnitude = abs(units)
        step = 10 ** max(len(str(magnitude)) - DIGITS_MAX, 0)
        addend = magnitude // step * step * (1 if units > 0 else -1)
        addends.append(addend)
        units -= addend
    return addends


def _timestamp(period_start_ms: int, period_end_ms: int, as_of_ms: int) -> int:
    """Unix seconds inside the period, so that late usage is invoiced where it belongs."""
    return min(max(as_of_ms, period_start_ms) // 1000, period_end_ms // 1000 - 1)


def _rows(frame: Frame) -> Iterator[tuple[_Key, _Newest]]:
    """The rows of a totals frame in their order, times in milliseconds since 1970."""
    if frame.kind is not Kind.TOTALS:
        raise Stop(
            f"Bill was given a frame of kind {frame.kind.name}, and bills totals only.",
            remedy="Find what else writes to usage.totals.",
        )
    for part in frame.parts:
        customers, meters, usages = (
            part.column(name).to_pylist() for name in ("customer", "meter", "usage")
        )
        starts, ends, as_ofs = (
            part.column(name).cast("int64").to_pylist()
            for name in ("period_start", "period_end", "as_of")
        )
        yield from zip(
            map(_Key, customers, meters, starts), map(_Newest, ends, usages, as_ofs), strict=True
        )


def _milliseconds(instant: datetime) -> int:
    return (instant - _EPOCH) // timedelta(milliseconds=1)


def _instant(ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=ms)


def _text(ms: int) -> str:
    return _instant(ms).isoformat().replace("+00:00", "Z")
