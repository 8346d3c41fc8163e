"""The oracle counts by the rules: what is the same, late, a text, an instant, a quantity."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from tests.counted_by_hand import DEFINITIONS, NOON, found, line, observed
from tests.oracle import load_definitions
from tests.oracle_lines import Undecidable, instant_ns, plain
from tests.oracle_rules import expect


def test_data_is_compared_by_its_bytes() -> None:
    spelled_otherwise = [line("1", "1", NOON, NOON), line("1", "1.0", NOON, NOON)]
    assert expect(load_definitions(DEFINITIONS), spelled_otherwise).ledger["conflict"] == 1


def test_true_is_not_one_and_a_text_is_not_a_number() -> None:
    lines = [
        line("1", data, NOON, NOON).replace(b"llm.request", b"other.type")
        for data in ("1", "true", '"1"')
    ]
    assert expect(load_definitions(DEFINITIONS), lines).ledger["conflict"] == 2


@pytest.mark.parametrize(
    ("received", "status"),
    [
        ("2026-12-04T00:00:00Z", "accepted"),
        ("2026-12-04T00:00:00.0009Z", "accepted"),
        ("2026-12-04T00:00:00.001Z", "late"),
    ],
)
def test_the_grace_time_ends_with_its_last_millisecond(received: str, status: str) -> None:
    definitions = load_definitions(DEFINITIONS)
    definitions["meters"].pop()
    assert expect(definitions, [line("1", "1", NOON, received)]).ledger[status] == 1


@pytest.mark.parametrize(
    ("aggregation", "value"),
    [("sum", "6"), ("count", "3"), ("max", "3"), ("min", "1"), ("latest", "2")],
)
def test_each_aggregation_counts_as_its_name_says(aggregation: str, value: str) -> None:
    definitions = load_definitions(DEFINITIONS)
    definitions["meters"][0].update(aggregation=aggregation, group_by={})
    lines = [
        line("1", "3", "2026-11-20T12:00:01Z", NOON),
        line("2", "2", "2026-11-20T12:00:01Z", NOON),
        line("3", "1", "2026-11-20T12:00:00Z", NOON),
    ]
    totals = expect(definitions, lines).totals
    assert totals["ann", "tokens", "2026-11-01T00:00:00Z", "{}", value] == 1


@pytest.mark.parametrize(
    ("dimension", "text"),
    [
        ("null", ""),
        ('"a b"', "a b"),
        ("true", "true"),
        ("1.50", "1.5"),
        ("1e2", "100"),
        ('{"b":[1.0,"é"],"a":null}', '{"a":null,"b":[1,"é"]}'),
    ],
)
def test_a_dimension_is_a_text(dimension: str, text: str) -> None:
    event = line("1", "1", NOON, NOON).replace(b'"m"', dimension.encode())
    group = json.dumps({"model": text})
    totals = expect(load_definitions(DEFINITIONS), [event]).totals
    assert totals["ann", "tokens", "2026-11-01T00:00:00Z", group, "1"] == 1


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T01:00:00.0000000019+01:00", 1),
        ("1969-12-31T23:00:00-01:00", 0),
        ("1969-12-31T23:59:59Z", None),
        ("2262-04-11T00:00:00Z", None),
        ("2026-11-20T12:00:00", None),
        ("2026-02-29T12:00:00Z", None),
        ("20261120T120000Z", None),
    ],
)
def test_an_instant_is_an_rfc_3339_time(text: str, instant: int | None) -> None:
    assert instant_ns(text) == instant


def test_a_quantity_is_written_without_exponent_and_trailing_zeros() -> None:
    written = [plain(Decimal(text)) for text in ("1E+2", "12.50", "-0.0", "1E-9")]
    assert written == ["100", "12.5", "0", "0.000000001"]


def test_one_identity_under_two_customers_is_a_conflict() -> None:
    lines = [line("1", "1", NOON, NOON), line("1", "1", NOON, NOON, subject="bob")]
    assert expect(load_definitions(DEFINITIONS), lines).ledger["conflict"] == 1


def test_a_line_without_arrival_needs_to_be_told_when_it_arrived() -> None:
    without = [line("1", "1", NOON, "never")]
    with pytest.raises(Undecidable, match="no `now`"):
        found(observed(), without)
    definitions = load_definitions(DEFINITIONS)
    assert expect(definitions, without, NOON).ledger["accepted"] == 1
    assert expect(definitions, without, "2027-11-20T12:00:00Z").ledger["late"] == 1
