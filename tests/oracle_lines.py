"""The oracle's reading of one line: a valid event with its quantities and groups, or `Broken`."""

from __future__ import annotations

import json
import re
from calendar import timegm
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, InvalidOperation
from functools import cache
from itertools import accumulate
from typing import Any

DAY_NS = 86_400 * 10**9
#: The last whole day whose nanoseconds since 1970 fit 64 bits: 2262-04-11.
LAST_NS = 2**63 // DAY_NS * DAY_NS

JSON = "application/json"
#: Far more digits than any sum has, so that nothing is ever rounded.
EXACT = Context(prec=1_000, Emin=MIN_EMIN, Emax=MAX_EMAX)

Row = dict[str, Any]


class Undecidable(Exception):
    """The input has something for which no single outcome is right."""


class Broken(Exception):
    """This line must end as a rejection."""


@dataclass(frozen=True)
class Number:
    """A JSON number, so that 1 equals 1.0, but not true."""

    value: Decimal


@dataclass
class Event:
    """A valid line; `text` is the line itself."""

    customer: str
    source: str
    id: str
    type: str
    time_ns: int
    received_ms: int
    data: Any
    text: str
    #: Slug of each meter that counts this type → (group as JSON, quantity).
    readings: dict[str, tuple[str, Decimal]]


def read(
    line: bytes,
    definitions: Row,
    now: str | None,
    seen_outside: frozenset[tuple[str, str]],
) -> Event:
    """The event of one line. Raises Broken when it must be rejected."""
    out_of_bounds: list[str] = []

    def number(literal: str) -> Number:
        try:
            return Number(Decimal(literal))
        except InvalidOperation:
            out_of_bounds.append(literal)
            return Number(Decimal("NaN"))

    try:
        text = line.decode("utf-8")
        document = json.loads(
            text, parse_int=number, parse_float=number, parse_constant=_no_json_number
        )
    except (ValueError, RecursionError):
        raise Broken from None
    if not isinstance(document, dict) or document.get("specversion") != "1.0":
        raise Broken
    names = [document.get(name) for name in ("subject", "source", "id", "type", "time")]
    if not all(isinstance(name, str) and name for name in names):
        raise Broken
    customer, source, event_id, event_type, time = (str(name) for name in names)
    # RFC 8259, section 9: a receiver may limit depth, numbers and the contents of strings.
    left_open = out_of_bounds or _is_huge_or_deep(text) or not _is_unicode(document)
    if left_open and (source, event_id) not in seen_outside:
        raise Broken
    if "data_base64" in document or document.get("datacontenttype", JSON) != JSON:
        raise Undecidable(f"{source!r}, {event_id!r} has data that is not plain JSON")
    time_ns = instant_ns(time)
    if time_ns is None:
        raise Broken
    data = document.get("data")
    readings = {
        meter["slug"]: (_group(data, meter), _quantity(data, meter))
        for meter in meters_of(definitions, event_type)
    }
    received_ns = instant_ns(document.get("receivedat"))
    if received_ns is None:
        received_ns = instant_ns(now)
    if received_ns is None:
        raise Undecidable(f"{source!r}, {event_id!r} has no receivedat, and no `now` was given")
    received_ms = received_ns // 10**6
    return Event(customer, source, event_id, event_type, time_ns, received_ms, data, text, readings)


def _no_json_number(literal: str) -> None:
    raise ValueError(f"{literal} is not JSON")


def _is_unicode(document: Any) -> bool:
    """Whether no text in it holds half of a surrogate pair."""
    try:
        json.dumps(document, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_huge_or_deep(text: str) -> bool:
    """Whether valid JSON has a number of 200 digits, or more than 250 nested levels."""
    if text.count("[") + text.count("{") > 250:
        outside_strings = re.sub(r'"(?:[^"\\]|\\.)*"', "", text)
        steps = ((bracket in "[{") - (bracket in "]}") for bracket in outside_strings)
        if max(accumulate(steps)) > 250:
            return True
    return re.search(r"\d{200}", text) is not None


def member_text(text: str, name: str) -> str:
    """The bytes of the last member `name` of an object in valid JSON; empty without one."""
    decoder = json.JSONDecoder(parse_int=str, parse_float=str)
    found, at = "", text.index("{") + 1
    while True:
        at += len(text[at:]) - len(text[at:].lstrip(" \t\r\n,"))
        if text[at] == "}":
            return found
        key, at = decoder.raw_decode(text, at)
        at += len(text[at:]) - len(text[at:].lstrip(" \t\r\n:"))
        _, end = decoder.raw_decode(text, at)
        if key == name:
            found = text[at:end]
        at = end


def meters_of(definitions: Row, event_type: str) -> list[Row]:
    """The meters that count events of a type."""
    return [meter for meter in definitions["meters"] if meter["event_type"] == event_type]


def _at(data: Any, path: str) -> Any:
    for name, quoted, index in re.findall(r"\.([\w-]+)|\[['\"]([^'\"]+)['\"]\]|\[(\d+)\]", path):
        if index:
            data = data[int(index)] if isinstance(data, list) and int(index) < len(data) else None
        else:
            data = data.get(name or quoted) if isinstance(data, dict) else None
    return data


def _quantity(data: Any, meter: Row) -> Decimal:
    """Raises Broken unless it is a finite number of at most 9 places and 38 digits."""
    if meter["aggregation"] == "count":
        return Decimal(1)
    raw = _at(data, meter["value"])
    if isinstance(raw, Number):
        number = raw.value
    elif isinstance(raw, str) and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", raw, re.A):
        try:
            number = Decimal(raw)
        except InvalidOperation:
            raise Broken from None
    else:
        raise Broken
    if not number.is_finite():
        raise Broken
    _, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    significant = "".join(map(str, digits)).strip("0")
    trailing_zeros = len(digits) - len("".join(map(str, digits)).rstrip("0"))
    places = -(exponent + trailing_zeros) if number else 0
    if places > 9 or len(significant) > 38 or (number and number.adjusted() >= 38):
        raise Broken
    return number if number else Decimal(0)


def _group(data: Any, meter: Row) -> str:
    group = {name: _text(_at(data, path)) for name, path in (meter.get("group_by") or {}).items()}
    return json.dumps(group, sort_keys=True)


def _text(value: Any) -> str:
    """A dimension as text: strings as they are, everything else as compact JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else _compact(value)


def _compact(value: Any) -> str:
    if isinstance(value, Number):
        readable = abs(value.value.adjusted()) <= 100
        return plain(value.value) if readable else str(value.value.normalize(EXACT))
    if isinstance(value, list):
        return "[" + ",".join(map(_compact, value)) + "]"
    if isinstance(value, dict):
        members = (
            f"{json.dumps(name, ensure_ascii=False)}:{_compact(value[name])}"
            for name in sorted(value)
        )
        return "{" + ",".join(members) + "}"
    return json.dumps(value, ensure_ascii=False)


def plain(number: Decimal) -> str:
    """Without exponent, trailing zeros or a negative zero."""
    text = format(number, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def instant_ns(text: Any) -> int | None:
    """Nanoseconds since 1970 of an RFC 3339 time; None if it is none, or not in 1970..2262."""
    match = isinstance(text, str) and re.fullmatch(
        r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):([0-5]\d))",
        text,
        re.ASCII,
    )
    if not match:
        return None
    day, clock, fraction, sign, hours, minutes = match.groups()
    try:
        whole = timegm(datetime.fromisoformat(f"{day}T{clock}").timetuple())
    except ValueError:
        return None
    if sign:
        if int(hours) > 23:
            return None
        whole -= int(sign + "1") * (int(hours) * 3_600 + int(minutes) * 60)
    instant = whole * 10**9 + int((fraction or "")[:9].ljust(9, "0"))
    return instant if 0 <= instant < LAST_NS else None


def period(time_ns: int, meter: Row) -> tuple[str, int]:
    """Start, and end in nanoseconds, of the month or day in which an instant lies."""
    return _period(time_ns // DAY_NS, meter.get("period", "month"))


@cache
def _period(days: int, kind: str) -> tuple[str, int]:
    day = datetime.fromtimestamp(days * 86_400, UTC)
    if kind == "month":
        start = day.replace(day=1)
        end = (start + timedelta(days=31)).replace(day=1)
    else:
        start, end = day, day + timedelta(days=1)
    return start.strftime("%Y-%m-%dT%H:%M:%SZ"), timegm(end.timetuple()) * 10**9
