"""Quantities are exact, bounded, and written in one way only."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from schemas.quantity import (
    DIGITS,
    NANOS,
    PLACES,
    Quantity,
    exact_number,
    from_plain,
    nanos,
    parse,
    plain,
)

units_of_any_total = st.integers(-(10**60), 10**60)
texts_of_quantities = st.builds(
    lambda sign, digits, places: (
        sign + (digits[: len(digits) - places] or "0") + ("." + digits[-places:] if places else "")
    ),
    st.sampled_from(["", "-"]),
    st.text("0123456789", min_size=PLACES, max_size=DIGITS),
    st.integers(0, PLACES),
)


class Line(BaseModel):
    quantity: Quantity


@given(units_of_any_total)
def test_what_is_written_reads_back_exactly(units: int) -> None:
    assert from_plain(plain(units)) == units


@given(units_of_any_total)
def test_what_is_written_is_plain_and_as_short_as_it_can_be(units: int) -> None:
    text = plain(units)
    assert set(text) <= set("-0123456789.")
    assert Fraction(text) * NANOS == units
    if "." in text:
        assert text[-1] != "0"


@given(texts_of_quantities)
def test_every_decimal_of_38_digits_and_9_places_is_taken_exactly(text: str) -> None:
    assert Fraction(nanos(parse(text)), NANOS) == Fraction(text)


@given(st.integers(-(10**DIGITS) + 1, 10**DIGITS - 1))
def test_every_integer_of_38_digits_is_taken_exactly(number: int) -> None:
    assert nanos(parse(number)) == number * NANOS


@pytest.mark.parametrize(
    "text",
    [
        "",
        " 1",
        "1 ",
        "1\n",
        "1_000",
        "1,5",
        "٣",
        "0x1",
        "1e",
        "--1",
        "1" * 201,
        "1e9999999999999999999",
    ],
)
def test_what_is_no_plain_decimal_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="plain decimal string"):
        parse(text)


@pytest.mark.parametrize("text", ["NaN", "sNaN", "Infinity", "-inf"])
def test_what_is_not_finite_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="finite"):
        parse(text)


@pytest.mark.parametrize(
    "quantity", ["0.0000000001", "1e-10", "1e-200", Decimal("1." + "0" * 500 + "1")]
)
def test_a_tenth_decimal_place_is_refused_however_it_hides(quantity: str | Decimal) -> None:
    with pytest.raises(ValueError, match="decimal places"):
        parse(quantity)


@pytest.mark.parametrize(
    "quantity", ["1" + "0" * 38, "1e38", "1e400", "9" * 30 + ".123456789", 10**300, "1e999999999"]
)
def test_a_39th_digit_is_refused_without_delay(quantity: str | int) -> None:
    with pytest.raises(ValueError, match="digits"):
        parse(quantity)


@pytest.mark.parametrize("not_exact", [1.5, True, False])
def test_binary_floats_and_booleans_are_refused(not_exact: float) -> None:
    with pytest.raises(ValueError, match="never a binary float"):
        parse(not_exact)  # type: ignore[arg-type]


@pytest.mark.parametrize("zero", ["0", "-0", "0.000", "0e999999999", "-0e-999999999"])
def test_there_is_one_zero(zero: str) -> None:
    assert plain(nanos(parse(zero))) == "0"


@pytest.mark.parametrize(
    ("literal", "number"),
    [
        ("1e3", 1000),
        ("5.0", 5),
        ("0.1", Decimal("0.1")),
        ("1.10", Decimal("1.1")),
        ("123456789012345678.5", Decimal("123456789012345678.5")),
    ],
)
def test_a_json_number_is_what_its_text_says(literal: str, number: int | Decimal) -> None:
    exact = exact_number(literal)
    assert exact == number
    assert type(exact) is type(number)


@pytest.mark.parametrize(
    ("typed", "written"), [("012.50", "12.5"), (7, "7"), (0.1, "0.1"), ("1e3", "1000")]
)
def test_in_a_document_a_quantity_is_written_plainly(typed: object, written: str) -> None:
    """A float only ever comes from YAML, where its shortest text is what was typed."""
    line = Line.model_validate({"quantity": typed})
    assert line.model_dump() == {"quantity": written}


@pytest.mark.parametrize("typed", [None, [], {}, True, float("nan"), "many"])
def test_in_a_document_anything_else_is_refused(typed: object) -> None:
    with pytest.raises(ValidationError):
        Line.model_validate({"quantity": typed})
