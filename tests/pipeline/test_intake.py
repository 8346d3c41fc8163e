"""Whatever arrives is in exactly one pack, or is exactly one rejection with reason and remedy."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.intake import Intake
from pipeline.pack import Pack
from pipeline.record import Outgoing, Record
from schemas import rejection, topics
from schemas.definitions import Definitions
from schemas.frame import Kind
from tests.pipeline.usage_log import (
    NOVEMBER_20_MS,
    TOKENS,
    binary,
    core,
    event,
    frame_of,
    positions,
    record,
    records,
    take_in,
    why,
)

DATA = Path(__file__).parents[2] / "../shared/data"
JSON_CASES = sorted((DATA / "json_test_suite/test_parsing").glob("*.json"))
needs_data = pytest.mark.skipif(not JSON_CASES, reason=f"no data at {DATA}")

REASONS = set(get_args(rejection.Reason))
OURS = [name for name, value in vars(rejection).items() if name.startswith("HEADER_")]

#: Reads several paths, one of them through a list, and groups by anything.
HUNGRY = Definitions.model_validate(
    {
        "meters": [
            {
                "slug": "tokens",
                "event_type": "llm",
                "aggregation": "sum",
                "value": "$.n",
                "group_by": {"model": "$.model", "all": "$", "first": "$.list[0]"},
            },
            {"slug": "calls", "event_type": "call", "aggregation": "count"},
            {"slug": "whole", "event_type": "whole", "aggregation": "max", "value": "$"},
        ],
        "plans": [{"slug": "free"}],
        "default_plan": "free",
    }
)


def offset_of(letter: Outgoing) -> int:
    return int(dict(letter.headers)[rejection.HEADER_OFFSET])


def settle(
    arriving: Sequence[Record], definitions: Definitions = HUNGRY
) -> tuple[list[tuple[int, Pack]], dict[int, Outgoing]]:
    """Take in, and check that each record is in one pack or is one whole rejection."""
    packs, letters = take_in(arriving, definitions)
    rejected = {offset_of(letter): letter for letter in letters}
    ended = Counter([*positions(packs), *map(offset_of, letters)])
    assert ended == Counter(range(len(arriving)))
    for offset, letter in rejected.items():
        original = arriving[offset]
        added = dict(letter.headers[len(original.headers) :])
        assert (letter.key, letter.value) == (original.key, original.value)
        assert letter.headers[: len(original.headers)] == original.headers
        assert len(added) == len(letter.headers) - len(original.headers) == len(OURS)
        assert added[rejection.HEADER_REASON].decode() in REASONS
        assert added[rejection.HEADER_MESSAGE]
        assert added[rejection.HEADER_REMEDY]
        assert len(added[rejection.HEADER_MESSAGE]) < 1_000
    return packs, rejected


def accepted(values: Iterable[bytes | None]) -> list[bool]:
    """Which values, as records without headers, are packed."""
    arriving = records(values)
    _, rejected = settle(arriving)
    return [offset not in rejected for offset in range(len(arriving))]


def originals(packs: list[tuple[int, Pack]]) -> dict[int, bytes]:
    """The packed events in structured mode, by their source offset."""
    return {
        offset: original
        for _, pack in packs
        for offset, original in zip(
            pack.numbers("source_offset").tolist(), pack.originals.to_pylist(), strict=True
        )
    }


# Hostile input, as a whole and in every place


@needs_data
def test_no_json_case_is_an_event_as_a_whole() -> None:
    assert len(JSON_CASES) == 318
    assert not any(accepted(case.read_bytes() for case in JSON_CASES))


@needs_data
@pytest.mark.parametrize("event_type", ["unmetered", "call"])
@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_every_json_case_as_data_is_judged_as_its_name_says(mode: str, event_type: str) -> None:
    arriving = []
    for offset, case in enumerate(JSON_CASES):
        text = case.read_bytes()
        one = binary(text, id=case.stem, type=event_type)
        if mode == "structured":
            whole = event(case.stem, type=event_type, data="HERE").replace(b'"HERE"', text)
            one = record(whole)
        arriving.append(record(one.value, offset, one.headers))
    packs, rejected = settle(arriving)
    for offset, case in enumerate(JSON_CASES):
        if not case.read_bytes().strip():
            # An empty file is an event without data in binary mode, and no JSON in structured mode.
            assert (offset in rejected) is (mode == "structured" or b" " in case.read_bytes())
        elif case.name.startswith("y_"):
            assert offset not in rejected, case.name
        elif case.name.startswith("n_"):
            assert offset in rejected, case.name
    for offset, original in originals(packs).items():
        # What was sent is kept as it was sent.
        assert JSON_CASES[offset].read_bytes().strip() in original


@needs_data
@pytest.mark.parametrize("event_type", ["llm", "whole"])
def test_every_json_case_as_data_that_meters_read_ends_in_one_way(event_type: str) -> None:
    values = [
        event(case.stem, type=event_type, data="HERE").replace(b'"HERE"', case.read_bytes())
        for case in JSON_CASES
    ]
    verdicts = accepted(values)
    assert not any(
        verdict and case.name.startswith("n_")
        for verdict, case in zip(verdicts, JSON_CASES, strict=True)
    )


@needs_data
def test_every_json_case_as_a_member_ends_in_one_way() -> None:
    for place in ("subject", "id", "time", "specversion", "datacontenttype", "data_base64", "x"):
        settle(
            records(
                event(**{"id": case.stem, place: "HERE"}).replace(b'"HERE"', case.read_bytes())
                for case in JSON_CASES
            )
        )
    values = [case.read_bytes() for case in JSON_CASES]
    data = b'{"n": %s, "model": %s, "list": [%s]}'
    settle(
        records(
            event(data="HERE").replace(b'"HERE"', data % parts)
            for value in values
            for parts in ((value, b"1", b"1"), (b"1", value, b"1"), (b"1", b"1", value))
        )
    )


@needs_data
def test_every_naughty_string_is_a_name_and_a_dimension_like_any_other() -> None:
    strings = json.loads((DATA / "blns.json").read_text(encoding="utf-8"))
    arriving: list[bytes] = []
    expected = []
    for text in strings:
        for place in ("subject", "id", "source", "type", "model"):
            attributes = {place: text} if place != "model" else {"data": {"n": 1, "model": text}}
            arriving.append(event(f"{len(arriving)}", **attributes))
            expected.append(bool(text) or place == "model")
            ascii_only = json.loads(arriving[-1])
            # Not escaped, as most services write it.
            arriving[-1] = json.dumps(ascii_only, ensure_ascii=False).encode()
    packs, rejected = settle(records(arriving))
    assert [offset not in rejected for offset in range(len(arriving))] == expected
    for _, pack in packs:
        customers, names = pack.codes("customer")
        models, texts = pack.codes("dimension:$.model")
        for row, original in enumerate(pack.originals.to_pylist()):
            said = json.loads(original)
            assert names[customers[row]] == said["subject"]
            if said["type"] == "llm":
                assert texts[models[row]] == said["data"]["model"]


@needs_data
def test_every_naughty_string_in_binary_mode_says_the_same_as_in_structured_mode() -> None:
    for text in json.loads((DATA / "blns.json").read_text(encoding="utf-8")):
        if text:
            attributes = dict.fromkeys(("id", "source", "subject"), text)
            structured = record(event(**attributes), 0)
            headers = binary(b'{"n": 1, "model": "m"}', **attributes)
            packs, rejected = settle([structured, record(headers.value, 1, headers.headers)])
            assert not rejected
            assert same_event(packs)


def same_event(packs: list[tuple[int, Pack]]) -> bool:
    """Whether two events have one identity and one fingerprint."""
    ((_, pack),) = packs
    return all(
        len(set(pack.numbers(column).tolist())) == 1
        for column in ("id_high", "id_low", "fingerprint")
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


literals = st.from_regex(
    r"[-+0-9.eE]{1,8}|NaN|-?Infinity|\[*\]*|\"[0-9a\\u]{0,6}\"", fullmatch=True
)


@core(150)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=30),
            st.none(),
            st.builds(
                lambda literal: event(data={"n": "HERE"}).replace(b'"HERE"', literal.encode()),
                literals,
            ),
            st.builds(lambda time: event(time=time), st.text(max_size=25)),
        ),
        max_size=12,
    )
)
def test_any_bytes_end_in_one_way(values: list[bytes | None]) -> None:
    accepted(values)


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
    assert why(rejected[0]) == "invalid_time"


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
