"""The benchmark of flushing into Stripe: its time, its limits, and who is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import stripe_flush
from benchmarks.stripe_flush import Setting, flush, outbox
from benchmarks.stripe_outside import RateLimit
from benchmarks.virtual_time import VirtualPool, VirtualTime
from sinks.stripe.account import Call, Fault
from tests.benchmarks.running import run_benchmark

CALL = Call("tokens", "cus_1", "1", "id", "1", "key")


def test_sleepers_sleep_side_by_side_as_many_as_there_are_workers() -> None:
    time = VirtualTime(begin_ms=5_000)
    woken = []

    def nap(seconds: float) -> float:
        time.sleep(seconds)
        woken.append((seconds, time.monotonic()))
        return time.wall()

    with VirtualPool(time, workers=2) as pool:
        futures = [pool.submit(nap, seconds) for seconds in (3, 1, 1, 4)]
    assert woken == [(1, 1), (1, 2), (3, 3), (4, 6)]
    assert futures[3].result() == 11
    time.sleep(10)
    assert time.now_ms() == 21_000


def test_any_second_may_have_so_many_calls_and_no_more() -> None:
    time = VirtualTime(begin_ms=0)
    limit = RateLimit(3, time)
    answers = []
    for pause in (0.0, 0.5, 0.4, 0.05, 0.1, 0.9):
        time.sleep(pause)
        answers.append(limit(CALL))
    assert answers == [None, None, None, Fault.RATE_LIMITED, Fault.RATE_LIMITED, None]
    assert (limit.refused, limit.most) == (2, 4)


def test_with_our_limiter_none_is_refused_and_without_it_many_are() -> None:
    limited = flush(Setting(customers=700, connections=64, call_seconds=0.02))
    assert limited["calls"] == limited["deltas"] == 2_100
    assert limited["refused_429"] == limited["conflicts_409"] == 0
    assert limited["most_in_a_second"] > 900
    unlimited = flush(Setting(700, 64, 0.02, paced_per_second=1e9))
    assert unlimited["refused_429"] > 0
    assert unlimited["calls"] == 2_100 + unlimited["refused_429"]


def test_a_wrong_value_at_stripe_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = [delta.replace(b'"7.5"', b'"8.5"') for delta in outbox(3)]
    monkeypatch.setattr(stripe_flush, "outbox", lambda _: wrong)
    with pytest.raises(RuntimeError, match="Stripe has"):
        flush(Setting(customers=3, connections=4, call_seconds=0.02))


def test_it_saves_its_figures_and_its_chart(tmp_path: Path) -> None:
    few = ["--customers", "400", "--connections", "4", "16", "--call-ms", "100"]
    run_benchmark("stripe_flush", *few, "--folder", str(tmp_path))
    results = json.loads((tmp_path / "stripe_flush.json").read_text())
    whole, four, sixteen, unlimited = results["flushes"]
    assert (whole["deltas"], four["deltas"]) == (1_200, 120)
    assert sixteen["deltas_per_second"] > 2 * four["deltas_per_second"]
    assert unlimited["paced_per_second"] is None
    assert results["loopback"]["deltas"] == 300
    assert results["loopback"]["cpu_us_per_call"] > 0
    assert "<svg" in (tmp_path / "stripe_flush.svg").read_text()
