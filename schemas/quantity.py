"""Exact quantities: decimals of at most 9 places and 38 digits, written as plain decimal strings.

Inside a process a quantity is an integer of *nanos*: units of 10^-9, the finest place there is.
Sums of integers are exact at any size, so no total can lose a digit.
"""

from __future__ import annotations

from decimal import Context, Decimal, InvalidOperation
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

PLACES = 9
DIGITS = 38
NANOS = 10**PLACES

_EXACT = Context(prec=400)
#: Longer literals, or exponents beyond this, are refused before any arithmetic touches them.
_LITERAL_LENGTH_MAX = 200

#: Numbers beyond 10^±100 keep their exponent, or a few bytes could become gigabytes.
_PLAIN_EXPONENT_MAX = 100


def nanos(quantity: Decimal) -> int:
    """`quantity` as an integer of 10^-9 units.

    Raises:
        ValueError: for NaN, infinities, more than 9 decimal places or more than 38 digits.
    """
    if not quantity.is_finite():
        raise ValueError("a quantity must be a finite number")
    if abs(quantity.adjusted()) > _LITERAL_LENGTH_MAX and quantity:
        raise ValueError(f"a quantity has at most {DIGITS} digits")
    scaled = quantity.scaleb(PLACES, _EXACT)
    units = int(scaled)
    # Against the quantity itself: scaling rounds what has more digits than the context.
    if Decimal(units).scaleb(-PLACES, _EXACT) != quantity:
        raise ValueError(f"a quantity has at most {PLACES} decimal places")
    if len(str(abs(units)).rstrip("0")) > DIGITS or abs(units) >= NANOS * 10**DIGITS:
        raise ValueError(f"a quantity has at most {DIGITS} digits")
    return units


def parse(text: str | int | Decimal) -> Decimal:
    """An exact decimal from a decimal string, an integer or a decimal.

    Raises:
        ValueError: when it is not a quantity; see `nanos`.
    """
    if isinstance(text, bool | float):
        raise ValueError("a quantity is a decimal string or an integer, never a binary float")
    if isinstance(text, str) and (
        len(text) > _LITERAL_LENGTH_MAX or not text.isascii() or "_" in text or text != text.strip()
    ):
        raise ValueError("a quantity is a plain decimal string")
    try:
        quantity = Decimal(text)
    except InvalidOperation:
        raise ValueError("a quantity is a plain decimal string") from None
    nanos(quantity)
    return quantity


def exact_number(literal: str) -> Decimal | int:
    """A JSON number with fraction or exponent, exactly as its text says; an integer if it is one.

    For `float_hook`: binary floats never come into being. Literals far outside of what a quantity
    may be stay decimals, which `nanos` refuses.
    """
    try:
        number = Decimal(literal)
    except InvalidOperation:
        raise ValueError("a number's exponent is out of all bounds") from None
    if len(literal) > _LITERAL_LENGTH_MAX or abs(number.adjusted()) > _PLAIN_EXPONENT_MAX:
        return number
    if number == number.to_integral_value(context=_EXACT):
        return int(number)
    return number.normalize(_EXACT)


def plain(units: int) -> str:
    """Nanos as the shortest plain decimal string: never an exponent, no trailing zeros."""
    whole, fraction = divmod(abs(units), NANOS)
    sign = "-" if units < 0 else ""
    if not fraction:
        return sign + str(whole)
    return f"{sign}{whole}.{fraction:09d}".rstrip("0")


def from_plain(text: str) -> int:
    """The inverse of `plain`; also takes sums of more than 38 digits, which totals may reach."""
    return int(Decimal(text).scaleb(PLACES, _EXACT))


def _written(quantity: Decimal) -> str:
    return plain(int(quantity.scaleb(PLACES, _EXACT)))


def _read(raw: object) -> Decimal:
    if isinstance(raw, float):
        # YAML has no decimals; the shortest text that reads back as this float is what was typed.
        raw = repr(raw)
    if not isinstance(raw, str | int | Decimal):
        raise ValueError("a quantity is a decimal string or an integer")
    return parse(raw)


_WRITTEN_SCHEMA = {"type": "string", "pattern": r"^-?\d{1,38}(\.\d{1,9})?$", "examples": ["12.5"]}

#: A decimal that travels as a plain decimal string.
Quantity = Annotated[
    Decimal,
    BeforeValidator(_read),
    PlainSerializer(_written, return_type=str),
    WithJsonSchema(_WRITTEN_SCHEMA, mode="serialization"),
    WithJsonSchema({"anyOf": [_WRITTEN_SCHEMA, {"type": "number"}]}, mode="validation"),
]

#: A quantity as totals reach it: sums may have more digits than one event may.
TotalQuantity = Annotated[
    str,
    Field(pattern=r"^-?\d+(\.\d{1,9})?$", examples=["80010"]),
]
