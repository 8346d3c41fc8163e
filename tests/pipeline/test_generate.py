"""The demo's events are what they claim to be, judged by the oracle."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime

import pytest
import yaml

from pipeline.generate import BREAKAGES, DEMO_DEFINITIONS, Shares, customer_id, generate
from pipeline.ingest_file import read_ndjson
from pipeline.llm_traffic import Request
from schemas.definitions import Definitions
from tests.oracle import load_definitions
from tests.oracle_rules import Expected, expect

CUSTOMERS = 50
ENDING_AT = datetime(2026, 11, 21, 4, tzinfo=UTC)


def demo(events: int = 20_000, seed: int = 1, shares: Shares | None = None) -> list[bytes]:
    return list(generate(events, CUSTOMERS, seed, ENDING_AT, shares=shares))


def judged(lines: list[bytes]) -> Expected:
    return expect(load_definitions(DEMO_DEFINITIONS.read_text(encoding="utf-8")), lines)


@pytest.fixture(scope="module")
def expected() -> Expected:
    return judged(demo())


def test_the_same_seed_gives_the_same_bytes_and_another_one_others() -> None:
    assert demo(500) == demo(500)
    assert demo(500) != demo(500, seed=2)


def test_every_fault_comes_about_in_its_share(expected: Expected) -> None:
    assert expected.ledger["sent"] == 20_000
    shares = Shares()
    for status, share in (
        ("duplicate", shares.duplicate),
        ("conflict", shares.conflict),
        ("late", shares.late),
        ("unknown", shares.unknown),
        ("rejected", shares.broken),
    ):
        assert expected.ledger[status] == pytest.approx(share * 20_000, rel=0.5), status


@pytest.mark.parametrize("kind", ["duplicate", "conflict", "late", "unknown", "broken"])
def test_a_share_of_its_own_leads_to_its_own_status(kind: str) -> None:
    none = dict.fromkeys(vars(Shares()), 0.0)
    ledger = judged(demo(2_000, shares=Shares(**none | {kind: 0.1}))).ledger
    status = {"broken": "rejected"}.get(kind, kind)
    assert {name for name, count in ledger.items() if count} == {"sent", "accepted", status}


def test_a_delayed_event_is_late_for_the_day_and_in_time_for_the_month() -> None:
    none = dict.fromkeys(vars(Shares()), 0.0)
    expected = judged(demo(100, shares=Shares(**none | {"delayed": 1.0})))
    assert expected.ledger["accepted"] == 100
    assert {meter for _, meter, *_ in expected.totals} == {"tokens", "requests", "spend_usd"}


@pytest.mark.parametrize(
    "ending_at",
    [
        datetime(2026, 11, 1, 0, 30, tzinfo=UTC),
        datetime(2027, 1, 3, 23, 59, tzinfo=UTC),
        datetime(2028, 3, 1, tzinfo=UTC),
        datetime(2026, 10, 31, 12, tzinfo=UTC),
    ],
)
def test_late_is_late_at_whatever_day_of_the_month_it_runs(ending_at: datetime) -> None:
    none = dict.fromkeys(vars(Shares()), 0.0)
    late = list(generate(200, CUSTOMERS, 3, ending_at, shares=Shares(**none | {"late": 1.0})))
    assert judged(late).ledger["late"] == 200


def test_every_way_of_breaking_an_event_makes_a_rejection() -> None:
    none = dict.fromkeys(vars(Shares()), 0.0)
    broken = demo(len(BREAKAGES), shares=Shares(**none | {"broken": 1.0}))
    assert len(set(broken)) == len(BREAKAGES)
    assert judged(broken).ledger["rejected"] == len(BREAKAGES)
    assert not any(b"\n" in line for line in broken)


def test_events_arrive_in_order_and_the_last_one_at_the_end() -> None:
    arrivals = [line.timestamp_ms for line in read_ndjson(demo(2_000))]
    known = [arrival for arrival in arrivals if arrival is not None]
    assert known == sorted(known)
    assert known[-1] == ENDING_AT.timestamp() * 1_000


def test_half_of_the_resends_are_byte_identical_as_sent() -> None:
    none = dict.fromkeys(vars(Shares()), 0.0)
    lines = demo(2_000, shares=Shares(**none | {"duplicate": 0.2}))
    values = Counter(line.value for line in read_ndjson(lines))
    ids = Counter(json.loads(line)["id"] for line in lines)
    identical = sum(values.values()) - len(values)
    resent = sum(ids.values()) - len(ids)
    assert resent == pytest.approx(400, rel=0.2)
    assert 0.4 < identical / resent < 0.7


def test_some_customers_cross_thresholds_and_one_event_crosses_several(expected: Expected) -> None:
    crossings = Counter(
        (customer, meter, start, value) for customer, meter, start, _, value in expected.alerts
    )
    assert len(crossings) > 30
    assert max(crossings.values()) == 3
    assert len({customer for customer, *_ in crossings}) < CUSTOMERS


def test_a_few_customers_use_most() -> None:
    subjects = Counter(
        json.loads(line)["subject"] for line in demo(5_000, shares=Shares(*[0.0] * 6))
    )
    assert [name for name, _ in subjects.most_common(2)] == [customer_id(1), customer_id(2)]
    assert subjects[customer_id(1)] > 10 * subjects[customer_id(CUSTOMERS)] > 0


def test_other_traffic_can_be_played() -> None:
    traffic = [Request(1.0, 10, 2), Request(0.25, 20, 3)]
    first, second = (
        json.loads(line)
        for line in generate(2, 1, 1, ENDING_AT, traffic, shares=Shares(*[0.0] * 6))
    )
    assert (first["data"]["tokens"], second["data"]["tokens"]) == (12, 23)
    assert first["receivedat"] == "2026-11-21T03:59:59.750Z"


def test_the_definitions_are_valid_and_list_the_customers_that_are_drawn() -> None:
    text = DEMO_DEFINITIONS.read_text(encoding="utf-8")
    definitions = Definitions.model_validate(yaml.safe_load(text))
    ranks = range(1, CUSTOMERS + 1)
    assert [customer.id for customer in definitions.customers] == [customer_id(r) for r in ranks]
    assert definitions.default_plan is None
    billed = [customer for customer in definitions.customers if customer.stripe_customer_id]
    assert CUSTOMERS / 2 < len(billed) < CUSTOMERS
