"""Real and hostile inputs as lines of NDJSON, for tests that play them end to end.

They fit the demo's definitions (`pipeline/demo.yaml`): its event type, customers and paths. Every
arrival lies within the hour of the real trace.
"""

from __future__ import annotations

import csv
import json
from bisect import bisect
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any

DATA = Path(__file__).parents[1] / "../shared/data"
TRACE = DATA / "azure_llm_code.csv"
JSON_CASES = DATA / "json_test_suite/test_parsing"
NAUGHTY_STRINGS = DATA / "blns.json"

CUSTOMERS = 50
HOSTILE_AT = "2023-11-16T18:45:00.5Z"
#: An event type that no meter counts: whether it is accepted depends on its form alone.
UNMETERED = "hostile.json"

#: Quantities as JSON texts; the first lot must count, the second must be rejected.
GOOD_QUANTITIES = (
    "0", "-0", "-7", "1.5", "1.500000000000", "1e3", "12E-1", "18446744073709551616", "1e37",
    "99999999999999999999999999999.999999999", '"12.5"', '"1e3"', '"-0.000000001"', '"007"',
)  # fmt: skip
BAD_QUANTITIES = (
    "NaN", "Infinity", "-Infinity", "1e400", "1e38", "0.0000000001", "true", "null", "[1]", '""',
    "123456789012345678901234567890123456789", '"1_000"', '" 1"', '"1 "', '"NaN"', '"0x10"',
    '"١٢"', '"1,5"', "01", "+1", ".5", "1.", '"1e99999999999999999999"',
)  # fmt: skip


def azure_lines(seed: int = 1, count: int | None = None) -> Iterator[bytes]:
    """The real trace (or its first `count` requests), each arriving when it was made.

    The trace has no customers: each request goes to the demo's customer of rank r with
    probability proportional to 1/r, drawn by a generator with this seed. The model is always
    `code`, and a token costs 10^-6 USD.
    """
    random = Random(seed)
    weights = list(accumulate(1 / rank for rank in range(1, CUSTOMERS + 1)))
    with TRACE.open(encoding="utf-8") as rows:
        for number, row in enumerate(csv.DictReader(rows)):
            if number == count:
                return
            rank = 1 + bisect(weights, random.random() * weights[-1], hi=CUSTOMERS - 1)
            context, generated = int(row["ContextTokens"]), int(row["GeneratedTokens"])
            tokens = context + generated
            data = {
                "model": "code",
                "context_tokens": context,
                "generated_tokens": generated,
                "tokens": tokens,
                "cost_usd": f"{tokens // 10**6}.{tokens % 10**6:06d}",
            }
            at = row["TIMESTAMP"].replace(" ", "T") + "Z"
            yield _line(
                {
                    "id": f"azure-{number:05d}",
                    "source": "/azure/code",
                    "subject": f"cus_{rank:02d}",
                },
                data,
                at,
            )


def hostile_values() -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every hostile input. Some hold newlines and cannot be lines of a file."""
    for case in sorted(JSON_CASES.glob("*.json")):
        text = case.read_bytes()
        yield f"{case.stem} as a whole", text
        event = _event(case.stem, type=UNMETERED, data="HERE")
        yield f"{case.stem} as data", event.replace(b'"HERE"', text)
        event = _event(f"{case.stem} as dimension", data=_data(model="HERE"))
        yield f"{case.stem} as dimension", event.replace(b'"HERE"', text)
    for number, text in enumerate(json.loads(NAUGHTY_STRINGS.read_text(encoding="utf-8"))):
        name = f"naughty string {number}"
        yield f"{name} as subject", _event(f"{name} as subject", subject=text)
        yield f"{name} as id", _event(text, source=f"/blns/{number}")
        yield f"{name} as source", _event(f"{name} as source", source=text)
        yield f"{name} as type", _event(f"{name} as type", type=text)
        yield f"{name} as dimension", _event(f"{name} as dimension", data=_data(model=text))
    for literal in (*GOOD_QUANTITIES, *BAD_QUANTITIES):
        name = f"quantity {literal}"
        event = _event(name, data=_data(tokens="HERE"))
        yield name, event.replace(b'"HERE"', literal.encode())
    for time in ("2023-11-16T18:45:00", "9999-12-31T23:59:59Z", "1969-12-31T23:59:59Z", "now", ""):
        yield f"time {time}", _event(f"time {time}", time=time)
    yield "no text at all", b"\xff\xfe\x00"
    yield (
        "100,000 nested arrays",
        _event("deep", data="HERE").replace(b'"HERE"', b"[" * 100_000 + b"]" * 100_000),
    )


def hostile_lines() -> list[bytes]:
    """Every hostile input that a line of a file can hold."""
    return [value for _, value in hostile_values() if b"\n" not in value and value.strip()]


def _data(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "context_tokens": 1, "tokens": 1, "cost_usd": "0.1"} | fields


def _event(event_id: str, **attributes: Any) -> bytes:
    named = {"id": event_id, "source": "/hostile", "subject": "cus_01"} | attributes
    return _line(named, named.pop("data", _data()), HOSTILE_AT)


def _line(attributes: dict[str, Any], data: Any, at: str) -> bytes:
    event = {"specversion": "1.0", "type": "llm.request", "time": at} | attributes
    return json.dumps(event | {"data": data, "receivedat": at}, ensure_ascii=False).encode()
