"""Deltas of the outbox, delivered to a stand-in of Stripe, and the checker of what it counted."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Context, Decimal

from pydantic import SecretStr

from pipeline.errors import Retry
from pipeline.record import Record, Written
from schemas.billing import Delivery, Delta
from schemas.topics import DELIVERIES, OUTBOX
from sinks.stripe.account import Fault, Faults
from sinks.stripe.client import stripe_client
from sinks.stripe.deliver import StripeSink
from sinks.stripe.stand_in import StripeStandIn

KEY = "rk_live_canary_4f1d9a"
START_MS = 1_795_000_000_000
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
EXACT = Context(prec=400)
#: After so long a customer whose calls failed is tried again.
REST_SECONDS = 120.0


class Clock:
    """Time that passes only while someone sleeps, and when a test says so."""

    def __init__(self) -> None:
        self.now_ms = START_MS
        self.sleeps: list[float] = []
        self._lock = threading.Lock()

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.sleeps.append(seconds)
            self.now_ms += round(seconds * 1000)

    def monotonic(self) -> float:
        return self.now_ms / 1000


def delta(number: int, customer: str = "cus_1", event_name: str = "tokens") -> Delta:
    """The `number`th delta of a customer and meter."""
    return Delta(
        identifier=f"meterline-{customer}-{event_name}-{number}",
        customer=customer,
        stripe_customer_id=customer,
        meter=event_name,
        event_name=event_name,
        period_start=datetime(2026, 11, 1, tzinfo=UTC),
        period_end=datetime(2026, 12, 1, tzinfo=UTC),
        sequence=number,
        value=f"{number + 1}.000000001",
        timestamp=START_MS // 1000 - 1000,
    )


def records(deltas: Sequence[Delta]) -> list[Record]:
    """`deltas` as one partition of the outbox."""
    return [
        Record(OUTBOX.name, 0, offset, START_MS, None, each.model_dump_json().encode())
        for offset, each in enumerate(deltas)
    ]


def sink(stand_in: StripeStandIn, clock: Clock, key: str = KEY) -> StripeSink:
    """A new process's sink: the real SDK, directed at the stand-in."""
    return sink_to(stand_in.url, clock, key)


def sink_to(url: str, clock: Clock, key: str = KEY) -> StripeSink:
    """The same, directed at whatever answers there."""
    return StripeSink(
        stripe_client(SecretStr(key), url),
        calls_per_second=1000,
        sleep=clock.sleep,
        monotonic=clock.monotonic,
        wall=clock.monotonic,
    )


def said(written: Written) -> list[Delivery]:
    """What became of what was settled."""
    assert {(out.topic, out.partition) for out in written.outgoing} <= {(DELIVERIES.name, 0)}
    made = [Delivery.model_validate_json(out.value or b"") for out in written.outgoing]
    assert [out.key for out in written.outgoing] == [d.identifier.encode() for d in made]
    return made


def deliveries(to: StripeSink, deltas: Sequence[Delta], now_ms: int) -> list[Delivery]:
    """Write all of `deltas`; what became of each."""
    written = to.write(records(deltas), now_ms)
    assert written.positions == {(OUTBOX.name, 0): len(deltas)}
    assert not written.waiting
    assert written.refusal is None
    return said(written)


def refusal(to: StripeSink, deltas: Sequence[Delta], now_ms: int) -> Retry:
    """Write `deltas`, of which Stripe takes none; why."""
    written = to.write(records(deltas), now_ms)
    assert written.positions == {(OUTBOX.name, 0): 0}
    assert written.waiting == records(deltas)
    assert not written.outgoing
    assert written.refusal is not None
    return written.refusal


def in_turn(*faults: Fault | None) -> Faults:
    """These faults, one a call, then none."""
    left = list(faults)
    return lambda _call: left.pop(0) if left else None


def check_exact(stand_in: StripeStandIn, deltas: Sequence[Delta], made: Sequence[Delivery]) -> None:
    """Each delta has one outcome, and Stripe's sums are exactly those of the delivered ones."""
    assert sorted(each.identifier for each in made) == sorted(each.identifier for each in deltas)
    sums: dict[tuple[str, str], Decimal] = {}
    for each in made:
        if each.outcome == "delivered":
            key = (each.stripe_customer_id, each.event_name)
            sums[key] = EXACT.add(sums.get(key, Decimal(0)), Decimal(each.value))
    assert stand_in.sums() == sums
