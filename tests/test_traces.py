"""The real and hostile inputs are what they claim to be, judged by the oracle."""

from __future__ import annotations

from collections import Counter
from functools import cache
from itertools import islice

import pytest
import yaml

from pipeline.decode import decode_data, decode_event
from pipeline.errors import Reject
from pipeline.generate import DEMO_DEFINITIONS
from pipeline.measure import readings
from pipeline.record import Record
from schemas.definitions import Definitions
from tests import traces
from tests.oracle import load_definitions
from tests.oracle_lines import Broken, instant_ns, read
from tests.oracle_rules import expect

pytestmark = pytest.mark.skipif(not traces.DATA.exists(), reason=f"no data at {traces.DATA}")

DEFINITIONS_TEXT = DEMO_DEFINITIONS.read_text(encoding="utf-8")
DEFINITIONS = load_definitions(DEFINITIONS_TEXT)


@cache
def hostile() -> dict[str, bytes]:
    return dict(traces.hostile_values())


def accepts(value: bytes) -> bool:
    """The oracle's verdict; what RFC 8259 leaves open is refused."""
    try:
        read(value, DEFINITIONS, None, frozenset())
    except Broken:
        return False
    return True


def test_the_trace_is_accepted_as_a_whole_and_shared_among_all_customers() -> None:
    expected = expect(DEFINITIONS, traces.azure_lines())
    assert expected.ledger == Counter(sent=8_819, accepted=8_819)
    customers = Counter(event.customer for event in expected.accepted)
    assert len(customers) == traces.CUSTOMERS
    assert customers["cus_01"] > 20 * customers["cus_50"]


def test_a_seed_and_a_count_choose_the_same_requests_and_customers_every_time() -> None:
    assert list(traces.azure_lines(2, 50)) == list(islice(traces.azure_lines(2), 50))
    assert list(traces.azure_lines(2, 50)) != list(traces.azure_lines(3, 50))


def test_hostile_inputs_arrive_within_the_hour_of_the_trace() -> None:
    (*_, last) = expect(DEFINITIONS, traces.azure_lines()).accepted
    (first,) = expect(DEFINITIONS, traces.azure_lines(count=1)).accepted
    hostile_at_ms = (instant_ns(traces.HOSTILE_AT) or 0) // 10**6
    assert first.received_ms < hostile_at_ms < last.received_ms


def test_every_json_case_is_judged_as_its_name_says() -> None:
    verdicts = [(name, accepts(value)) for name, value in hostile().items() if " as d" in name]
    by_case = [(name, accepted) for name, accepted in verdicts if name[1] == "_"]
    assert len(by_case) == 2 * 318
    assert [name for name, accepted in by_case if name[0] == "y" and not accepted] == []
    assert [name for name, accepted in by_case if name[0] == "n" and accepted] == []


def test_no_identity_is_used_twice_so_that_every_outcome_is_decided() -> None:
    ledger = expect(DEFINITIONS, traces.hostile_lines()).ledger
    assert ledger["sent"] == len(traces.hostile_lines()) > 3_000
    assert not ledger["duplicate"]
    assert not ledger["conflict"]
    assert min(ledger["accepted"], ledger["rejected"], ledger["unknown"]) > 400


@pytest.mark.parametrize("literal", traces.GOOD_QUANTITIES)
def test_a_good_quantity_counts_for_product_and_oracle(literal: str) -> None:
    value = hostile()[f"quantity {literal}"]
    assert accepts(value)
    assert product_accepts(value)


@pytest.mark.parametrize("literal", traces.BAD_QUANTITIES)
def test_a_bad_quantity_counts_for_neither(literal: str) -> None:
    value = hostile()[f"quantity {literal}"]
    assert not accepts(value)
    assert not product_accepts(value)


def product_accepts(value: bytes) -> bool:
    definitions = Definitions.model_validate(yaml.safe_load(DEFINITIONS_TEXT))
    try:
        envelope, _ = decode_event(Record("usage.events", 0, 0, 0, None, value))
        readings(definitions)[envelope.type].quantities(decode_data(envelope)[0])
    except Reject:
        return False
    return True
