"""A whole outbox into Stripe at its documented limits: how long it takes, and who is refused.

    uv run python -m benchmarks.stripe_flush [--customers 100000]

The delivery loop, the sink with its limiter, Stripe's SDK and the stand-in's account are the real
ones. Time is virtual (`benchmarks.virtual_time`), so an hour at Stripe's limits takes minutes here,
and Kafka and the wire are in memory (`benchmarks.stripe_outside`). The stand-in allows 1,000 calls
in any one second and one at a time for a customer and meter. The same outbox is flushed at several
round-trip times with several numbers of connections, and without the limiter as a contrast; of all
but the first a tenth is enough. What one call costs our process is measured in real time, over HTTP
to the stand-in (`benchmarks.stripe_loopback`).

Writes FOLDER/stripe_flush.json and stripe_flush.svg.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import stripe
from rich.console import Console
from rich.table import Table

from benchmarks import charts, stripe_loopback
from benchmarks.command import run
from benchmarks.options import duration_or_none, folder, positive
from benchmarks.stages import machine
from benchmarks.stripe_outside import MemoryKafka, RateLimit, SlowWire
from benchmarks.virtual_time import VirtualPool, VirtualTime
from schemas.billing import Delivery, Delta
from sinks.stripe.account import Account
from sinks.stripe.client import CONNECTIONS, LIVE_CALLS_PER_SECOND
from sinks.stripe.deliver import StripeSink
from streams.deliver import Deliverer

#: Of the table, in characters.
_WIDTH = 100

METERS = ("tokens", "storage", "calls")
_NO_LIMITER = 1e9
_LINGER_MS = 200
_RETRY_AFTER_SECONDS = 2
_BEGIN = datetime(2026, 12, 1, tzinfo=UTC)
_PERIOD_START = datetime(2026, 11, 1, tzinfo=UTC)
_BEGIN_MS = int(_BEGIN.timestamp() * 1000)


@dataclass(frozen=True)
class Setting:
    """One flush. `paced_per_second` is what our limiter allows."""

    customers: int
    connections: int
    call_seconds: float
    paced_per_second: float = LIVE_CALLS_PER_SECOND

    @property
    def is_limited(self) -> bool:
        """Whether our limiter works at all."""
        return self.paced_per_second < _NO_LIMITER


def outbox(customers: int) -> list[bytes]:
    """One delta of each customer and meter for the month that has just ended."""
    return [
        Delta(
            identifier=f"{meter}-cus_{customer:06d}-202611-0",
            customer=f"cus_{customer:06d}",
            stripe_customer_id=f"cus_stripe_{customer:06d}",
            meter=meter,
            event_name=meter,
            period_start=_PERIOD_START,
            period_end=_BEGIN,
            sequence=0,
            value=f"{customer * 7 + number}.5",
            timestamp=_BEGIN_MS // 1000 - 1,
        )
        .model_dump_json()
        .encode()
        for customer in range(customers)
        for number, meter in enumerate(METERS)
    ]


def flush(setting: Setting) -> dict[str, Any]:
    """Flush it and look at what Stripe has.

    Raises:
        RuntimeError: Stripe does not have each delta once, or a delivery says otherwise.
    """
    virtual = VirtualTime(_BEGIN_MS)
    limit = RateLimit(int(LIVE_CALLS_PER_SECOND), virtual)
    account = Account(
        now_ms=virtual.now_ms,
        refuses_future=True,
        faults=limit,
        meters=METERS,
        customers=None,
        refuses_unknown=True,
        retry_after_seconds=_RETRY_AFTER_SECONDS,
    )
    wire = SlowWire(account, virtual, setting.call_seconds)
    sink = StripeSink(
        stripe.StripeClient("sk_live_stand_in", http_client=wire, max_network_retries=0),
        calls_per_second=setting.paced_per_second,
        sleep=virtual.sleep,
        monotonic=virtual.monotonic,
        wall=virtual.wall,
        executor=lambda: VirtualPool(virtual, setting.connections),
    )
    kafka = MemoryKafka(outbox(setting.customers), virtual)
    cpu_begin = time.process_time()
    Deliverer(
        "stripe",
        sink,
        kafka,
        instance="benchmark",
        stop=kafka.drained,
        linger_ms=_LINGER_MS,
        notes_attempts=True,
    ).run()
    cpu_seconds = time.process_time() - cpu_begin
    _check(setting, account, kafka)
    calls = wire.answers.total()
    return {
        "customers": setting.customers,
        "deltas": setting.customers * len(METERS),
        "connections": setting.connections,
        "call_ms": setting.call_seconds * 1000,
        "paced_per_second": setting.paced_per_second if setting.is_limited else None,
        "calls": calls,
        "refused_429": wire.answers[429],
        "conflicts_409": wire.answers[409],
        "most_in_a_second": limit.most,
        "virtual_seconds": virtual.monotonic(),
        "deltas_per_second": setting.customers * len(METERS) / virtual.monotonic(),
        "cpu_us_per_call": cpu_seconds / calls * 1e6,
    }


def _check(setting: Setting, account: Account, kafka: MemoryKafka) -> None:
    """Every delta counts once at Stripe, with its own value, and is reported as delivered."""
    expected = {
        (f"cus_stripe_{customer:06d}", meter): f"{customer * 7 + number}.5"
        for customer in range(setting.customers)
        for number, meter in enumerate(METERS)
    }
    taken = {(one.stripe_customer_id, one.event_name): str(one.value) for one in account.journal}
    if taken != expected or len(account.journal) != len(expected):
        raise RuntimeError(f"Stripe has {len(account.journal)} events of {len(expected)}")
    said = [Delivery.model_validate_json(one.value or b"") for one in kafka.deliveries]
    if {one.outcome for one in said} != {"delivered"} or len(said) != len(expected):
        raise RuntimeError(f"{len(said)} deliveries were reported of {len(expected)}")


def measure(
    customers: int, connections: Sequence[int], call_ms: Sequence[float], say: Console
) -> dict[str, Any]:
    """All flushes: a tenth of the customers for all but the first, as nothing else differs."""
    load_before = os.getloadavg()[0]
    part = max(1, customers // 10)
    settings = [Setting(customers, CONNECTIONS, min(call_ms) / 1000)]
    settings += [Setting(part, n, ms / 1000) for ms in call_ms for n in connections]
    # Twice as many, because a slow wire limits, too.
    settings += [Setting(part, 2 * max(connections), ms / 1000, _NO_LIMITER) for ms in call_ms]
    found = []
    for setting in settings:
        say.print(
            f"{setting.customers:,} customers, {setting.connections} connections, "
            f"{setting.call_seconds * 1000:g} ms a call"
            f"{'' if setting.is_limited else ', without our limiter'}…"
        )
        found.append(flush(setting))
    say.print("In real time, over HTTP…")
    return {
        "loopback": stripe_loopback.measure(outbox(max(100, customers // 50))),
        "time": "virtual",
        "allowed_per_second": LIVE_CALLS_PER_SECOND,
        "flushes": found,
        "load_average_before": load_before,
        "machine": machine() | {"stripe": stripe.VERSION},
    }


def table(results: dict[str, Any]) -> Table:
    """For the terminal."""
    shown = Table(title="virtual time; 1,000 calls a second are allowed")
    for column in ("deltas", "limiter", "connections", "call", "time", "deltas/s", "calls", "429"):
        shown.add_column(column, justify="right", no_wrap=True)
    for one in results["flushes"]:
        shown.add_row(
            f"{one['deltas']:,}",
            "ours" if one["paced_per_second"] else "none",
            str(one["connections"]),
            f"{one['call_ms']:g} ms",
            f"{one['virtual_seconds']:,.0f} s",
            f"{one['deltas_per_second']:,.0f}",
            f"{one['calls']:,}",
            f"{one['refused_429']:,}",
        )
    loopback = results["loopback"]
    shown.caption = (
        f"In real time over HTTP on this machine: {loopback['deltas_per_second']:,.0f} deltas/s, "
        f"{loopback['cpu_us_per_call']:,.0f} us of CPU a call."
    )
    return shown


def chart(results: dict[str, Any], path: Path) -> None:
    """Write how the rate grows with the connections, for each time that a call takes."""
    series: dict[str, list[tuple[float, float]]] = {}
    for one in results["flushes"][1:]:
        if one["paced_per_second"]:
            points = series.setdefault(f"{one['call_ms']:g} ms a call", [])
            points.append((one["connections"], one["deltas_per_second"]))
    charts.lines(
        path,
        "Deltas a second into Stripe, limited to 1,000",
        "connections",
        "deltas a second",
        series,
        log_x=True,
    )


def main() -> None:
    """Measures, prints and saves."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--customers", type=positive, default=100_000, help="three meters each")
    options.add_argument("--connections", type=positive, nargs="+", default=[8, 32, 128])
    options.add_argument(
        "--call-ms", type=duration_or_none, nargs="+", default=[50, 150], help="what a call takes"
    )
    options.add_argument(
        "--folder", type=folder, default="docs/benchmarks", help="where results are saved"
    )
    chosen = options.parse_args()
    results = measure(chosen.customers, chosen.connections, chosen.call_ms, Console(stderr=True))
    Console(highlight=False, width=_WIDTH).print(table(results))
    chart(results, chosen.folder / "stripe_flush.svg")
    (chosen.folder / "stripe_flush.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    run(main)
