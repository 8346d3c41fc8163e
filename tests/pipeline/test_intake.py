"""Whatever arrives is in exactly one pack, or is exactly one rejection with reason and remedy."""

from __future__ import annotations

import pytest

from pipeline.intake import Intake
from pipeline.pack import Pack
from pipeline.record import Record
from schemas import topics
from schemas.definitions import Definitions
from schemas.frame import Kind
from tests.pipeline.taking_in import accepted, originals, same_event, settle
from tests.pipeline.usage_log import (
    NOVEMBER_20_MS,
    TOKENS,
    binary,
    event,
    frame_of,
    record,
    records,
    take_in,
    why,
)


@pytest.mark.parametrize("data", [b'{"n": 1}', b'{"n":1.0}', b'{ "n" : "1" }', b'{"n": 1e0}'])
def test_the_same_data_bytes_are_the_same_event_in_both_modes_and_others_are_not(
    data: bytes,
) -> None:
    structured = record(event(data="HERE").replace(b'"HERE"', data), 0)
    headers = binary(data)
    packs, _ = settle([structured, record(headers.value, 1, headers.headers)])
    assert same_event(packs)
    other = binary(data.replace(b"{", b"{ "))
    packs, _ = settle([structured, record(other.value, 1, other.headers)])
    assert not same_event(packs)


def test_the_same_instant_written_otherwise_is_no_other_event() -> None:
    packs, _ = settle(records([event(), event(time="2026-11-20T10:30:00.000+01:00")]))
    assert same_event(packs)
    packs, _ = settle(records([event(), event(time="2026-11-20T09:30:00.000000001Z")]))
    assert not same_event(packs)


# What the issue names one by one


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "malformed_json"),
        (None, "malformed_json"),
        (b"null", "not_a_cloudevent"),
        (b"[]", "not_a_cloudevent"),
        (b"\xef\xbb\xbf" + event(), "malformed_json"),
        (event().decode().encode("utf-16"), "malformed_json"),
        (event(specversion="0.3"), "not_a_cloudevent"),
        (event(subject=None), "missing_attribute"),
        (event(subject=""), "invalid_attribute"),
        (event(time="2026-11-20T09:30:00"), "invalid_time"),
        (event(time="9999-12-31T23:59:59Z"), "invalid_time"),
        (event(time="1969-12-31T23:59:59Z"), "invalid_time"),
        (event(time="x" * 100_000), "invalid_time"),
        (event(time=""), "invalid_time"),
        (event(data=None), "missing_value"),
        (event(data={"model": "m"}), "missing_value"),
        (event(data={"n": True}), "invalid_value"),
        (event(data={"n": "HERE"}).replace(b'"HERE"', b"1e400"), "invalid_value"),
        (event(data={"n": "HERE"}).replace(b'"HERE"', b"NaN"), "malformed_json"),
        (event(data={"n": 10**38}), "invalid_value"),
        (event(data={"n": "HERE"}).replace(b'"HERE"', b'1, "n": 2'), "ambiguous"),
        (event(data="HERE").replace(b'"HERE"', b"1, 2"), "malformed_json"),
        (event(data="HERE").replace(b'"HERE"', b"[" * 100_000 + b"]" * 100_000), "malformed_json"),
        (b"[" * 100_000 + b"]" * 100_000, "malformed_json"),
        (event(subject="HERE").replace(b"HERE", rb"\ud800"), "malformed_json"),
        (event(comment="HERE").replace(b"HERE", b"\xff"), "malformed_json"),
        (event(data={"n": 1, "pad": "x" * 10_000_000}), "too_large"),
        (event(datacontenttype="text/plain", data="n=1"), "invalid_data"),
    ],
)
def test_bad_input_is_rejected_for_its_reason(value: bytes | None, reason: str) -> None:
    good = event("2")
    packs, rejected = settle([record(value, 0, key=b"\xffkey"), record(good, 1)])
    assert {offset: why(letter) for offset, letter in rejected.items()} == {0: reason}
    assert originals(packs) == {1: good}


@pytest.mark.parametrize("received_ms", [-1, -(2**63), 2**63 - 1, 10**15])
def test_an_arrival_that_cannot_be_is_rejected(received_ms: int) -> None:
    _, rejected = settle([record(event(), 0, received_ms=received_ms)])
    assert why(rejected[0]) == "invalid_arrival"


def test_integers_over_64_bits_are_packed_exactly() -> None:
    numbers = [2**64, -(2**80), 10**38 - 1, 2**63, 5]
    packs, _ = settle(records(event(f"{n}", data={"n": n}) for n in numbers))
    ((_, pack),) = packs
    assert pack.quantities("$.n").nanos() == [number * 10**9 for number in numbers]


def test_fractions_beside_whole_numbers_are_packed_exactly() -> None:
    packs, _ = settle(records(event(f"{n}", data={"n": n}) for n in ("1", "2.5", "0.000000001")))
    ((_, pack),) = packs
    assert pack.quantities("$.n").nanos() == [10**9, 2_500_000_000, 1]


def test_a_repeated_member_that_no_meter_reads_is_kept_as_it_was_sent() -> None:
    value = event(data={"n": 1, "x": "HERE"}).replace(b'"HERE"', b'1, "x": 2')
    packs, rejected = settle([record(value)])
    assert not rejected
    assert originals(packs) == {0: value}


def test_an_event_that_no_meter_matches_is_packed_whatever_its_data() -> None:
    values = [
        event("1", type="other", data=None),
        event("2", type="other", data={"n": "no number"}),
        event("3", type="other", datacontenttype="text/plain", data="n=1"),
    ]
    assert accepted(values) == [True] * 3
    arriving = binary(b"\xff\x00", b"application/octet-stream", type="other")
    assert not settle([arriving])[1]


@pytest.mark.parametrize("path", ["$", "$[0]", "$.n"])
@pytest.mark.parametrize("aggregation", ["sum", "count"])
def test_data_that_is_not_json_is_rejected_as_that_by_whatever_path_it_is_read(
    aggregation: str, path: str
) -> None:
    """Else it would count under the group "", or be said to lack a value that it may have."""
    reads = {"group_by": {"it": path}} if aggregation == "count" else {"value": path}
    meter = {"slug": "m", "event_type": "call", "aggregation": aggregation, **reads}
    definitions = Definitions.model_validate({"meters": [meter]})
    arriving = [
        binary(b"[5]", b"text/plain", type="call"),
        record(event(type="call", datacontenttype="text/plain", data=[5]), 1),
    ]
    _, rejected = settle(arriving, definitions)
    assert [why(letter) for letter in rejected.values()] == ["invalid_data"] * 2


# Packs


def test_the_columns_of_a_pack_say_what_the_event_says() -> None:
    value = event("7", subject="cus_é", time="2026-11-20T09:30:00.125Z")
    arriving = Record(topics.EVENTS.name, 5, 1_207, NOVEMBER_20_MS + 125, b"k", value)
    (((shard, pack),), _) = take_in([arriving])
    row = pack.batch.to_pylist()[0]
    assert row | {"id_high": 0, "id_low": 0, "fingerprint": 0} == {
        "source_partition": 5,
        "source_offset": 1_207,
        "source_index": 0,
        "received_at": NOVEMBER_20_MS + 125,
        "time": (NOVEMBER_20_MS + 125) * 10**6,
        "id_high": 0,
        "id_low": 0,
        "fingerprint": 0,
        "type": "llm",
        "customer": "cus_é",
        "original": value,
        "value:$.n": 1,
        "dimension:$.model": "m",
    }
    assert pack.definitions_version == TOKENS.version
    assert 0 <= shard < 16


def test_a_customer_is_in_one_shard_whatever_its_partition_and_keeps_its_order() -> None:
    values = [event(f"{n}", subject=f"c{n % 9}") for n in range(500)]
    arriving = [
        Record(topics.EVENTS.name, n % 7, n, NOVEMBER_20_MS, None, value)
        for n, value in enumerate(values)
    ]
    packs, _ = take_in(arriving)
    shard_of: dict[str, int] = {}
    for shard, pack in packs:
        codes, names = pack.codes("customer")
        assert all(shard_of.setdefault(name, shard) == shard for name in names)
        for code in range(len(names)):
            offsets = pack.numbers("source_offset")[codes == code]
            assert (offsets[1:] > offsets[:-1]).all()
    assert len(shard_of) == 9


def test_cutting_the_input_otherwise_changes_no_event() -> None:
    arriving = records([event(f"{n}", subject=f"c{n % 9}") for n in range(60)] + [b"broken"])
    whole = originals(take_in(arriving)[0])
    for size in (1, 7):
        intake = Intake(TOKENS)
        found: dict[int, bytes] = {}
        for begin in range(0, len(arriving), size):
            for outgoing in intake.step(arriving[begin : begin + size]):
                if outgoing.topic == topics.METERED.name:
                    found |= originals([(0, Pack(frame_of(outgoing)))])
        assert found == whole


def test_no_records_become_nothing() -> None:
    assert Intake(TOKENS).step([]) == []


def test_definitions_are_announced_to_every_shard() -> None:
    announced = Intake(TOKENS, shards=4).announce()
    assert [each.partition for each in announced] == [0, 1, 2, 3]
    for each in announced:
        frame = frame_of(each)
        assert frame.kind is Kind.DEFINITIONS
        assert frame.header["version"] == TOKENS.version
        assert Definitions.model_validate(frame.header["document"]) == TOKENS
