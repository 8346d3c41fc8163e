"""JSON made to break parsers, naughty strings and any bytes: each ends in one way, as it should."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pipeline.apart import assert_read_alike
from tests.pipeline.taking_in import HUNGRY, accepted, originals, same_event, settle
from tests.pipeline.usage_log import binary, core, event, record, records
from tests.traces import hostile_lines

DATA = Path(__file__).parents[2] / "../shared/data"
JSON_CASES = sorted((DATA / "json_test_suite/test_parsing").glob("*.json"))
needs_data = pytest.mark.skipif(not JSON_CASES, reason=f"no data at {DATA}")


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


@needs_data
def test_every_hostile_line_is_read_as_it_is_read_one_by_one() -> None:
    lines = hostile_lines()
    assert len(lines) > 3_000
    for line in lines:
        assert_read_alike([record(line)], HUNGRY)


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
