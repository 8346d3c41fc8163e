"""Meters read quantities exactly, and dimensions as texts, at their paths."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import Reject
from pipeline.measure import Reading, readings
from pipeline.nesting import NESTING_MAX
from schemas.definitions import Definitions
from schemas.quantity import exact_number, nanos
from tests.pipeline.usage_log import core

decode = msgspec.json.Decoder(float_hook=exact_number).decode


def quantity(literal: str, path: str = "$.n") -> int | Decimal:
    """The quantity at a path, in data where `literal` stands at `$.n`."""
    (found,) = Reading((path,), ()).quantities(decode(f'{{"n": {literal}}}'))
    return found


def text(literal: str, path: str = "$.d") -> str:
    """The dimension at a path, in data where `literal` stands at `$.d`."""
    (found,) = Reading((), (path,)).texts(decode(f'{{"d": {literal}}}'))
    return found


@core(300)
@given(st.integers(0, 10**38 - 1), st.integers(0, 9), st.booleans(), st.booleans())
def test_every_quantity_of_38_digits_and_9_places_is_read_exactly(
    digits: int, places: int, negative: bool, quoted: bool
) -> None:
    written = f"{digits:0{places + 1}d}"
    whole, fraction = (written[:-places], written[-places:]) if places else (written, "")
    literal = f"{'-' * negative}{int(whole)}{'.' * bool(fraction)}{fraction}"
    found = quantity(json.dumps(literal) if quoted else literal)
    expected = (-1) ** negative * digits * 10 ** (9 - places)
    assert nanos(Decimal(found)) == expected
    assert type(found) is (int if expected % 10**9 == 0 else Decimal)


LONGEST = "12345678901234567890123456789.123456789"


@pytest.mark.parametrize(
    ("literal", "expected"),
    [
        ("1e3", 1000),
        ("1.50e1", 15),
        ("12E-1", Decimal("1.2")),
        ("0.000000001", Decimal("1e-9")),
        ("-0", 0),
        ("-0.0", 0),
        ("1.000000000000000000000", 1),
        ('"1e3"', 1000),
        ('"+7"', 7),
        (LONGEST, Decimal(LONGEST)),
        ("1e37", 10**37),
    ],
)  # fmt: skip
def test_a_quantity_is_what_its_text_says(literal: str, expected: int | Decimal) -> None:
    assert quantity(literal) == expected


@pytest.mark.parametrize(
    "literal",
    [
        "true", "false", '""', '"x"', '"NaN"', '"Infinity"', '"-Infinity"', '"sNaN"', "[]", "{}",
        "1e400", "-1e400", "1e38", '"1e999999999999"', "1e-10", "0.0000000001", '"0.0000000001"',
        "123456789012345678901234567890123456789", "1" * 39, '"1_000"', '"1,5"', '" 1"', '"1\\n"',
        '"0x10"', '"\u0661"', '"1' + "0" * 300 + '"',
    ],
)  # fmt: skip
def test_what_is_no_quantity_is_refused(literal: str) -> None:
    with pytest.raises(Reject) as refused:
        quantity(literal)
    assert refused.value.reason == "invalid_value"
    assert "$.n" in refused.value.message


@pytest.mark.parametrize("path", ["$.other", "$.n.deeper", "$.n[0]", "$['a b']", "$[0]"])
def test_a_value_that_is_missing_is_refused(path: str) -> None:
    with pytest.raises(Reject) as refused:
        quantity("1", path)
    assert refused.value.reason == "missing_value"
    assert path in refused.value.remedy


@pytest.mark.parametrize("data", [None, 5, "text", [1], True, {"n": None}])
def test_data_that_is_no_object_has_no_members(data: Any) -> None:
    reading = Reading(("$.n",), ("$.d",))
    with pytest.raises(Reject) as refused:
        reading.quantities(data)
    assert refused.value.reason == "missing_value"
    assert reading.texts(data) == [""]


def test_paths_walk_through_objects_and_lists() -> None:
    data = decode('{"a": {"b c": [10, {"d": 7}]}, "x-y": 3}')
    assert Reading(("$.a['b c'][1].d", '$.a["b c"][0]', "$.x-y"), ()).quantities(data) == [7, 10, 3]
    assert Reading((), ("$.a['b c'][2]", "$.a.b", "$.x-y[0]")).texts(data) == ["", "", ""]
    assert Reading(("$",), ()).quantities(5) == [5]


@pytest.mark.parametrize(
    ("literal", "expected"),
    [
        ('"text"', "text"),
        ('""', ""),
        ("null", ""),
        ("true", "true"),
        ("7", "7"),
        ("1.50", "1.5"),
        ("1e3", "1000"),
        ("1e-3", "0.001"),
        ("18446744073709551616", "18446744073709551616"),
        ('{"b": 1.5, "a": [null, "x"]}', '{"a":[null,"x"],"b":1.5}'),
        ('" \\u0000é"', " \0é"),
    ],
)
def test_a_dimension_is_a_text(literal: str, expected: str) -> None:
    assert text(literal) == expected
    assert text(literal, "$.missing") == ""


def test_a_dimension_of_a_few_bytes_does_not_become_gigabytes() -> None:
    assert len(text("1e100")) == 101
    assert len(text("1e999999999")) < 20
    assert len(text("-1e-999999999")) < 20


def test_nor_does_a_list_of_such_dimensions() -> None:
    few, many = ("[" + ",".join(["1e99"] * count) + "]" for count in (1_000, 200_000))
    assert len(text(few)) == 101 * 1_000 + 1
    with pytest.raises(Reject, match="takes 20200001 bytes, more than an event may have"):
        text(many)


def test_a_dimension_as_deep_as_an_event_may_be_is_a_text() -> None:
    deepest = "[" * NESTING_MAX + "]" * NESTING_MAX
    assert text(deepest) == deepest


def test_every_path_of_an_event_type_is_read_once() -> None:
    def meter(slug: str, **fields: object) -> dict[str, object]:
        return {"slug": slug, "event_type": "a", "aggregation": "sum", "value": "$.n"} | fields

    definitions = Definitions.model_validate(
        {
            "meters": [
                meter("one", group_by={"x": "$.d", "y": "$.e"}),
                meter("two", group_by={"z": "$.d"}, aggregation="max"),
                meter("three", value="$['m n'].o"),
                meter("four", aggregation="count", value=None),
                meter("five", event_type="b", aggregation="count", value=None),
            ]
        }
    )
    found = readings(definitions)
    assert found == {"a": Reading(("$.n", "$['m n'].o"), ("$.d", "$.e")), "b": Reading((), ())}
    assert found["a"].names == (b'"n"', b'"m n"', b'"o"', b'"d"', b'"e"')
