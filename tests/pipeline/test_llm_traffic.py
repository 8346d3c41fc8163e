"""The model of real traffic, beside the trace that it was distilled from."""

from __future__ import annotations

import csv
from datetime import datetime
from itertools import islice
from pathlib import Path
from random import Random
from statistics import fmean, pvariance

import pytest

from pipeline.llm_traffic import (
    CONTEXT_TOKENS,
    GENERATED_TOKENS,
    LULL_SECONDS,
    PAUSE_SECONDS,
    PROBABILITIES,
    RUN_REQUESTS,
    Request,
    requests,
)

TRACE = Path(__file__).parents[2] / "../shared/data/azure_llm_code.csv"

needs_trace = pytest.mark.skipif(not TRACE.exists(), reason=f"the trace is not at {TRACE}")


def model() -> list[Request]:
    return list(islice(requests(Random(7)), 100_000))


def trace() -> list[Request]:
    with TRACE.open(encoding="utf-8") as rows:
        table = list(csv.DictReader(rows))
    times = [datetime.fromisoformat(row["TIMESTAMP"][:26] + "+00:00") for row in table]
    return [
        Request(
            (at - before).total_seconds(), int(row["ContextTokens"]), int(row["GeneratedTokens"])
        )
        for before, at, row in zip(times, times[1:], table[1:], strict=False)
    ]


def distance(left: list[float], right: list[float]) -> float:
    """The largest gap between two empirical distributions (Kolmogorov-Smirnov)."""

    def share_up_to(values: list[float], bound: float) -> float:
        return sum(value <= bound for value in values) / len(values)

    bounds = sorted({*islice(iter(right), 0, None, 20)})
    return max(abs(share_up_to(left, bound) - share_up_to(right, bound)) for bound in bounds)


def dispersion(gaps: list[float]) -> float:
    """Variance over mean of arrivals a second: 1 for a Poisson process, more for bursts."""
    seconds: dict[int, int] = {}
    now = 0.0
    for gap in gaps:
        now += gap
        seconds[int(now)] = seconds.get(int(now), 0) + 1
    counts = [seconds.get(second, 0) for second in range(int(now) + 1)]
    return pvariance(counts) / fmean(counts)


@pytest.mark.parametrize(
    "quantiles",
    [RUN_REQUESTS, LULL_SECONDS, PAUSE_SECONDS, CONTEXT_TOKENS, GENERATED_TOKENS],
)
def test_quantiles_rise_from_the_least_to_the_most(quantiles: tuple[float, ...]) -> None:
    assert len(quantiles) == len(PROBABILITIES)
    assert list(quantiles) == sorted(quantiles)


def test_the_same_random_numbers_give_the_same_requests() -> None:
    assert list(islice(requests(Random(1)), 100)) == list(islice(requests(Random(1)), 100))


@needs_trace
@pytest.mark.parametrize("column", [1, 2], ids=["context tokens", "generated tokens"])
def test_sizes_are_distributed_as_in_the_trace(column: int) -> None:
    drawn = [float(request[column]) for request in model()[:10_000]]
    real = [float(request[column]) for request in trace()]
    assert distance(drawn, real) < 0.05
    assert fmean(drawn) == pytest.approx(fmean(real), rel=0.1)


@needs_trace
def test_arrivals_come_in_bursts_as_in_the_trace() -> None:
    drawn = [request.gap_seconds for request in model()]
    real = [request.gap_seconds for request in trace()]
    assert distance(drawn[:10_000], real) < 0.05
    assert fmean(drawn) == pytest.approx(fmean(real), rel=0.1)
    assert dispersion(drawn) == pytest.approx(dispersion(real), rel=0.5)
