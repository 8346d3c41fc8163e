"""A forecast names the next threshold that a straight line meets before the period's end, once."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.forecast import Forecaster
from pipeline.periods import DISORDER_DAYS
from schemas.definitions import Definitions
from schemas.forecast import Forecast
from schemas.quantity import NANOS, plain
from schemas.total import TOTAL_COLUMNS

START = datetime(2026, 11, 1, tzinfo=UTC)
END = datetime(2026, 12, 1, tzinfo=UTC)
LENGTH_MS = 30 * 86_400_000


def definitions(
    *thresholds: Any, aggregation: str = "sum", limit: Any = 100, **changes: Any
) -> Definitions:
    meter = {"slug": "tokens", "event_type": "llm", "aggregation": aggregation, **changes}
    if aggregation != "count":
        meter["value"] = "$.tokens"
    limits = [{"meter": "tokens", "limit": limit, "thresholds": thresholds}]
    return Definitions.model_validate(
        {
            "meters": [meter],
            "plans": [{"slug": "free", "limits": limits}],
            "customers": [{"id": "cus_1"}, {"id": "cus_2"}],
            "default_plan": "free",
        }
    )


def row(usage: str, as_of: datetime, customer: str = "cus_1", **changes: Any) -> dict[str, Any]:
    return {
        "customer": customer,
        "meter": "tokens",
        "period_start": START,
        "period_end": END,
        "group": "{}",
        "value": usage,
        "usage": usage,
        "events": 1,
        "as_of": as_of,
        **changes,
    }


def totals(*rows: dict[str, Any]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(list(rows), schema=TOTAL_COLUMNS)


def forecasts(known: Definitions, *rows: dict[str, Any]) -> list[Forecast]:
    return Forecaster().step(known, totals(*rows))


def told(found: Sequence[Forecast]) -> list[tuple[str, str]]:
    return [(forecast.customer, forecast.threshold) for forecast in found]


def day(number: float) -> datetime:
    return START + timedelta(days=number)


def test_usage_on_its_way_over_a_threshold_is_forecast_with_the_time_of_the_crossing() -> None:
    (forecast,) = forecasts(definitions("80%", "100%"), row("40", day(10)))
    assert forecast == Forecast(
        customer="cus_1",
        meter="tokens",
        period_start=START,
        period_end=END,
        threshold="80%",
        usage="40",
        projected="120",
        crosses_at=day(20),
        as_of=day(10),
    )


def test_usage_that_ends_below_the_threshold_is_not() -> None:
    assert forecasts(definitions("80%"), row("26.666666666", day(10))) == []
    assert told(forecasts(definitions("80%"), row("26.67", day(10)))) == [("cus_1", "80%")]


def test_a_threshold_met_at_the_very_end_of_the_period_is_not_crossed_before_it() -> None:
    assert forecasts(definitions("100%", limit=90), row("30", day(10))) == []


def test_only_the_next_threshold_is_forecast_not_those_behind_or_beyond() -> None:
    known = definitions("50%", 20, "150%", "100%")
    assert told(forecasts(known, row("60", day(10)))) == [("cus_1", "100%")]
    assert forecasts(known, row("150", day(10))) == []


def test_each_forecast_is_made_once_and_the_next_threshold_gets_its_own() -> None:
    forecaster, known = Forecaster(), definitions("50%", "80%")
    said = [
        told(forecaster.step(known, totals(row(usage, day(at)))))
        for usage, at in (("40", 10), ("41", 11), ("55", 12), ("56", 13))
    ]
    assert said == [[("cus_1", "50%")], [], [("cus_1", "80%")], []]


def test_what_was_announced_before_a_restart_is_not_announced_again() -> None:
    known = definitions("80%")
    before = forecasts(known, row("40", day(10)))
    written = [Forecast.model_validate_json(forecast.model_dump_json()) for forecast in before]
    assert Forecaster(written).step(known, totals(row("40", day(10)), row("41", day(11)))) == []


def test_usage_that_arrived_weeks_before_that_of_another_customer_is_not_announced_again() -> None:
    forecaster, known = Forecaster(), definitions("80%")
    one_day: dict[str, Any] = {"period_start": day(10), "period_end": day(11)}
    said = [
        told(forecaster.step(known, totals(usage)))
        for usage in (
            row("50", day(10.5), **one_day),
            row("1", day(10.6 + DISORDER_DAYS), "cus_2"),
            row("51", day(10.6), **one_day),
        )
    ]
    assert said == [[("cus_1", "80%")], [], []]


def test_the_next_period_is_forecast_anew() -> None:
    forecaster, known = Forecaster(), definitions("80%")
    december: dict[str, Any] = {"period_start": END, "period_end": datetime(2027, 1, 1, tzinfo=UTC)}
    assert len(forecaster.step(known, totals(row("40", day(10))))) == 1
    assert len(forecaster.step(known, totals(row("40", day(40), **december)))) == 1


def test_a_total_of_many_groups_is_forecast_once_from_the_usage_over_all_groups() -> None:
    found = forecasts(
        definitions("80%"),
        row("40", day(10), value="1", group='{"model":"a"}'),
        row("41", day(10.5), value="39", group='{"model":"b"}'),
    )
    assert [(forecast.usage, forecast.as_of) for forecast in found] == [("41", day(10.5))]


def test_usage_over_all_groups_is_never_set_against_an_older_arrival_of_one_group() -> None:
    """A dead letter that comes back as of its first arrival changes its own group's row only."""
    known = definitions("80%", "100%", group_by={"model": "$.model"})
    forecaster = Forecaster()
    assert forecaster.step(known, totals(row("60", day(28), group='{"model":"a"}'))) == []
    back = row("61", day(2), value="1", group='{"model":"b"}')
    assert forecaster.step(known, totals(back)) == []
    (forecast,) = forecaster.step(known, totals({**back, "usage": "79"}))
    assert (forecast.usage, forecast.as_of) == ("79", day(28))


def test_the_first_event_of_a_period_alarms_nobody() -> None:
    known = definitions("80%")
    assert forecasts(known, row("79", START + timedelta(milliseconds=1))) == []
    assert forecasts(known, row("79", day(1.4999))) == []
    assert told(forecasts(known, row("79", day(1.5)))) == [("cus_1", "80%")]


@pytest.mark.parametrize("as_of", [START - timedelta(days=1), START, END, END + timedelta(days=2)])
def test_nothing_is_projected_from_outside_the_period(as_of: datetime) -> None:
    assert forecasts(definitions("80%"), row("79", as_of)) == []


@pytest.mark.parametrize("usage", ["0", "-5"])
def test_usage_of_nothing_or_less_grows_nowhere(usage: str) -> None:
    assert forecasts(definitions("80%"), row(usage, day(10))) == []


@pytest.mark.parametrize("aggregation", ["max", "min", "latest"])
def test_what_does_not_accumulate_is_not_projected(aggregation: str) -> None:
    known = definitions("80%", aggregation=aggregation)
    assert forecasts(known, row("79", day(10))) == []


def test_a_meter_a_customer_or_a_limit_that_is_not_defined_is_skipped() -> None:
    known = definitions("80%")
    without_limit = known.model_validate(
        {**known.model_dump(), "plans": [{"slug": "free"}], "default_plan": None}
    )
    assert forecasts(known, row("79", day(10), meter="other")) == []
    assert forecasts(without_limit, row("79", day(10)), row("79", day(10), "nobody")) == []


def test_one_customer_never_changes_the_forecast_of_another() -> None:
    known = definitions("80%")
    alone = forecasts(known, row("40", day(10)))
    both = forecasts(known, row("79", day(2), "cus_2"), row("40", day(10)))
    assert told(both) == [("cus_2", "80%"), ("cus_1", "80%")]
    assert both[1:] == alone


def test_what_has_ended_is_forgotten() -> None:
    """Memory holds forecasts and arrivals of some weeks, however long the process runs."""
    forecaster, known = Forecaster(), definitions("80%", group_by={"model": "$.model"})
    for number in range(2 * DISORDER_DAYS):
        start = START + timedelta(days=number)
        period: dict[str, Any] = {"period_start": start, "period_end": start + timedelta(days=1)}
        at_noon = start + timedelta(hours=12)
        assert len(forecaster.step(known, totals(row("79", at_noon, **period)))) == 1
        assert forecaster.step(known, totals(row("79", at_noon, **period))) == []
    assert len(forecaster._announced) <= DISORDER_DAYS + 1
    assert len(forecaster._arrivals) <= DISORDER_DAYS + 1


LIMITS = st.integers(1, 10**38 - 1)


@given(
    usage_and_limit=LIMITS.flatmap(
        lambda limit: st.tuples(st.integers(1, 2 * limit * NANOS), st.just(limit))
    ),
    elapsed_ms=st.integers(LENGTH_MS // 20, LENGTH_MS),
)
def test_a_forecast_is_exact(usage_and_limit: tuple[int, int], elapsed_ms: int) -> None:
    """By the same formula in fractions: no digit is lost at any size."""
    usage, limit = usage_and_limit
    as_of = START + timedelta(milliseconds=elapsed_ms)
    found = forecasts(definitions("100%", limit=limit), row(plain(usage), as_of))
    crosses_after = Fraction(limit * NANOS * elapsed_ms, usage)
    assert bool(found) == (
        usage < limit * NANOS and elapsed_ms < LENGTH_MS and crosses_after <= LENGTH_MS - 1
    )
    for forecast in found:
        crosses_after_ms = (forecast.crosses_at - START) // timedelta(milliseconds=1)
        assert 0 <= crosses_after_ms - crosses_after < 1
        assert (
            0
            <= Fraction(usage * LENGTH_MS, elapsed_ms * NANOS) - Fraction(forecast.projected)
            < Fraction(1, NANOS)
        )
        assert forecast.as_of <= forecast.crosses_at < END
