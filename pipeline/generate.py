"""The demo's events: seeded usage of language models, with the faults that real producers make.

Everything comes from the seed and the given end; the same arguments give the same bytes.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate, cycle, islice
from pathlib import Path
from random import Random
from typing import Any

from pipeline.llm_traffic import Request, requests

#: The definitions that the demo counts by, as a `meterline.yaml`.
DEMO_DEFINITIONS = Path(__file__).with_name("demo.yaml")
#: The grace times in it: of its meters by month, and of its meter by day.
MONTH_GRACE_HOURS = 72
DAY_GRACE_HOURS = 24

#: Weight of the customer of rank r is r^-1.1: a few large ones and a long tail, as in Zipf's law.
ZIPF_EXPONENT = 1.1
#: A resend or a conflict follows within so many events.
RESEND_WITHIN_EVENTS = 5_000

#: Model → how often it is asked, and its price in 10^-9 USD for a token read and one written.
MODELS = {"small": (6, 150, 600), "medium": (3, 2_500, 10_000), "large": (1, 15_000, 75_000)}
SOURCES = ("/gateway/eu-1", "/gateway/us-1", "/gateway/us-2")

Event = dict[str, Any]


@dataclass(frozen=True)
class Shares:
    """Which share of all lines is what; the rest are ordinary events."""

    duplicate: float = 0.01
    conflict: float = 0.002
    #: Too late for every meter.
    late: float = 0.003
    #: Too late for the meter by day, in time for those by month.
    delayed: float = 0.003
    unknown: float = 0.002
    broken: float = 0.003


def generate(
    events: int,
    customers: int,
    seed: int,
    ending_at: datetime,
    traffic: Iterable[Request] | None = None,
    shares: Shares | None = None,
) -> Iterator[bytes]:
    """`events` lines of NDJSON, the last one arriving at `ending_at`.

    Each is a CloudEvent in structured mode with its arrival time as `receivedat`, in order of
    arrival; broken ones are whatever bytes they are. Resends differ at most in the order of the
    attributes, conflicts have other tokens under the same id. `traffic` gives gaps and sizes, by
    default those of the real trace in `pipeline.llm_traffic`.
    """
    random = Random(seed)
    shares = shares or Shares()
    arriving = list(islice(traffic or requests(random), events))
    elapsed_seconds = list(accumulate(request.gap_seconds for request in arriving))
    weights = list(accumulate(rank**-ZIPF_EXPONENT for rank in range(1, customers + 1)))
    names = [customer_id(rank) for rank in range(1, customers + 1)]
    breakages = cycle(BREAKAGES)
    sent: deque[Event] = deque(maxlen=RESEND_WITHIN_EVENTS)
    kinds = (*vars(shares), "ordinary")
    kind_weights = (*vars(shares).values(), 1 - sum(vars(shares).values()))
    for number, request in enumerate(arriving):
        arrival = ending_at - timedelta(seconds=elapsed_seconds[-1] - elapsed_seconds[number])
        kind = random.choices(kinds, kind_weights)[0]
        event = _event(number, request, random.choices(names, cum_weights=weights)[0], random)
        used_at = arrival - timedelta(seconds=random.uniform(0.05, 2))
        if kind == "late":
            used_at = _before_the_last_open_month(arrival, random)
        elif kind == "delayed":
            used_at = arrival - timedelta(hours=DAY_GRACE_HOURS + random.uniform(25, 46))
        elif kind == "unknown":
            event["subject"] = f"unlisted_{random.randint(1, 3)}"
        event["time"] = _instant(used_at)
        if kind == "broken":
            yield next(breakages)(event | {"receivedat": _instant(arrival)})
            continue
        if kind in ("duplicate", "conflict") and sent:
            event = random.choice(sent)
            if kind == "conflict":
                tokens = event["data"]["tokens"] + random.randint(1, 100)
                event = event | {"data": event["data"] | {"tokens": tokens}}
            elif random.random() < 0.5:
                event = dict(reversed(event.items()))
        else:
            sent.append(event)
        yield _line(event | {"receivedat": _instant(arrival)})


def customer_id(rank: int) -> str:
    """The demo's customer of a rank; 1 uses the most."""
    return f"cus_{rank:02d}"


def _event(number: int, request: Request, customer: str, random: Random) -> Event:
    model = random.choices(list(MODELS), [weight for weight, *_ in MODELS.values()])[0]
    _, read_price, write_price = MODELS[model]
    context, generated = request.context_tokens, request.generated_tokens
    cost = context * read_price + generated * write_price
    return {
        "specversion": "1.0",
        "id": f"req-{number:06d}-{random.getrandbits(32):08x}",
        "source": random.choice(SOURCES),
        "type": "llm.request",
        "subject": customer,
        "time": "",
        "data": {
            "model": model,
            "context_tokens": context,
            "generated_tokens": generated,
            "tokens": context + generated,
            "cost_usd": f"{cost // 10**9}.{cost % 10**9:09d}",
        },
    }


def _before_the_last_open_month(arrival: datetime, random: Random) -> datetime:
    """A time whose month and day ended longer than every grace time before `arrival`."""
    open_since = arrival.astimezone(UTC) - timedelta(hours=MONTH_GRACE_HOURS + 1)
    month_start = open_since.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return month_start - timedelta(days=random.uniform(0.1, 20))


def _instant(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _line(event: Event) -> bytes:
    return json.dumps(event, separators=(",", ":")).encode()


def _tokens(literal: str) -> Callable[[Event], bytes]:
    """Writes the event with this JSON text as its tokens."""

    def breakage(event: Event) -> bytes:
        tokens = event["data"]["tokens"]
        return _line(event).replace(f'"tokens":{tokens}'.encode(), f'"tokens":{literal}'.encode())

    return breakage


def _with(**attributes: Any) -> Callable[[Event], bytes]:
    return lambda event: _line(event | attributes)


def _without(attribute: str) -> Callable[[Event], bytes]:
    return lambda event: _line({name: event[name] for name in event if name != attribute})


#: The ways in which an event may be broken; each of them must end as a rejection.
BREAKAGES: tuple[Callable[[Event], bytes], ...] = (
    lambda event: _line(event)[:60],
    _without("subject"),
    _tokens("NaN"),
    _tokens("1e400"),
    _with(time="2026-02-30T09:30:00Z"),
    _tokens("true"),
    _tokens("0.0123456789"),
    lambda _: b"503 Service Unavailable",
    _with(time="2026-11-20T09:30:00"),
    _tokens("null"),
    _with(id=""),
    _tokens('"twelve"'),
    _with(specversion="0.3"),
    lambda event: b"[" + _line(event) + b"]",
    _tokens("123456789012345678901234567890123456789"),
    _with(source=7),
    lambda event: _line(event).replace(b'"model":"', b'"model":"\xff'),
    _with(data={}),
    _tokens('"1_000"'),
    _with(time="3026-01-01T00:00:00Z"),
    lambda event: _line(event).replace(b'"data":', b'"data":' + b"[" * 5_000),
    _without("id"),
    _tokens("Infinity"),
)
