"""What a log of usage must lead to, event by event with decimals. Shares no code with the core."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from typing import Any, NamedTuple

EXACT = Context(prec=1_000)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Document = dict[str, Any]


class Usage(NamedTuple):
    """One event; its time in microseconds, its arrival in milliseconds since 1970."""

    id: str
    customer: str
    type: str
    time_us: int
    received_ms: int
    data: dict[str, Any]

    def as_json(self) -> bytes:
        """The event in structured mode."""
        moment = EPOCH + timedelta(microseconds=self.time_us)
        attributes = {
            "specversion": "1.0",
            "id": self.id,
            "source": "/brute",
            "type": self.type,
            "subject": self.customer,
            "time": moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "data": self.data,
        }
        return json.dumps(attributes).encode()


#: (customer, meter, period start in ms)
UsageKey = tuple[str, str, int]
#: (customer, meter, period start in ms, group as JSON)
TotalKey = tuple[str, str, int, str]


class Total(NamedTuple):
    """A published total; its value as a plain decimal string."""

    value: str
    events: int
    as_of_ms: int


class Crossing(NamedTuple):
    """One alert."""

    customer: str
    meter: str
    period_start_ms: int
    threshold: str
    value: str
    event_id: str
    crossed_at_ms: int


@dataclass
class Outcome:
    """Everything that can be seen of a log that was counted."""

    statuses: list[str] = field(default_factory=list)
    late_for: set[tuple[int, str]] = field(default_factory=set)
    totals: dict[TotalKey, Total] = field(default_factory=dict)
    #: Over all groups, as plain decimal strings.
    usage: dict[UsageKey, str] = field(default_factory=dict)
    alerts: list[Crossing] = field(default_factory=list)


@dataclass
class _Counted:
    """All that was counted into one total, oldest first: (value, time)."""

    entries: list[tuple[Decimal, int]] = field(default_factory=list)
    as_of_ms: int = 0

    def value(self, aggregation: str) -> Decimal:
        values = [value for value, _ in self.entries]
        if aggregation in ("count", "sum"):
            total = Decimal(0)
            for value in values:
                total = EXACT.add(total, value)
            return total
        if aggregation == "max":
            return max(values)
        if aggregation == "min":
            return min(values)
        newest = max(time for _, time in self.entries)
        return [value for value, time in self.entries if time == newest][-1]


def expect(log: list[tuple[Usage, Document]]) -> Outcome:
    """The outcome of a log: events in order, each with the definitions that hold for it."""
    outcome = Outcome()
    first_of: dict[str, Usage] = {}
    counted: dict[TotalKey, _Counted] = {}
    usage: dict[UsageKey, _Counted] = {}
    fired: set[tuple[UsageKey, str]] = set()
    for index, (event, document) in enumerate(log):
        first = first_of.setdefault(event.id, event)
        if first is not event:
            same = said(first) == said(event)
            outcome.statuses.append("duplicate" if same else "conflict")
            continue
        if plan_of(event.customer, document) is None and not listed(event.customer, document):
            outcome.statuses.append("unknown")
            continue
        meters = [each for each in document["meters"] if each["event_type"] == event.type]
        late = [meter["slug"] for meter in meters if is_late(event, meter)]
        if meters and len(late) == len(meters):
            outcome.statuses.append("late")
            continue
        outcome.statuses.append("accepted")
        outcome.late_for |= {(index, slug) for slug in late}
        for meter in sorted(meters, key=lambda each: each["slug"]):
            if meter["slug"] in late:
                continue
            start_ms, _ = period_ms(event, meter)
            entry = value_of(event, meter), event.time_us
            key = event.customer, meter["slug"], start_ms
            for total in (
                usage.setdefault(key, _Counted()),
                counted.setdefault((*key, group_of(event, meter)), _Counted()),
            ):
                total.entries.append(entry)
                total.as_of_ms = max(total.as_of_ms, event.received_ms)
            now = usage[key].value(meter["aggregation"])
            for least, name in thresholds(event.customer, meter["slug"], document):
                if now >= least and (key, name) not in fired:
                    fired.add((key, name))
                    outcome.alerts.append(
                        Crossing(*key, name, plain(now), event.id, event.received_ms)
                    )
    kinds = {m["slug"]: m["aggregation"] for _, document in log for m in document["meters"]}
    for (customer, slug, start_ms, group), total in counted.items():
        outcome.totals[customer, slug, start_ms, group] = Total(
            plain(total.value(kinds[slug])), len(total.entries), total.as_of_ms
        )
    outcome.usage = {key: plain(total.value(kinds[key[1]])) for key, total in usage.items()}
    return outcome


def said(event: Usage) -> tuple[object, ...]:
    """What must be the same for a copy to be a duplicate."""
    return event.customer, event.type, event.time_us, json.dumps(event.data)


def is_late(event: Usage, meter: Document) -> bool:
    grace_ms: int = meter["grace_hours"] * 3_600_000
    return event.received_ms > period_ms(event, meter)[1] + grace_ms


def period_ms(event: Usage, meter: Document) -> tuple[int, int]:
    """Start and end of the event's period."""
    day = (EPOCH + timedelta(microseconds=event.time_us)).replace(
        hour=0, minute=0, second=0, microsecond=0
    )
    if meter["period"] == "day":
        start, end = day, day + timedelta(days=1)
    else:
        start = day.replace(day=1)
        end = (start + timedelta(days=31)).replace(day=1)
    return milliseconds(start), milliseconds(end)


def milliseconds(moment: datetime) -> int:
    """Since 1970."""
    return (moment - EPOCH) // timedelta(milliseconds=1)


def value_of(event: Usage, meter: Document) -> Decimal:
    path = meter.get("value")
    return Decimal(1) if path is None else Decimal(event.data[path[2:]])


def group_of(event: Usage, meter: Document) -> str:
    paths = meter.get("group_by", {})
    group = {name: event.data.get(path[2:]) or "" for name, path in paths.items()}
    return json.dumps(group, sort_keys=True, separators=(",", ":"))


def listed(customer: str, document: Document) -> Document | None:
    return next((each for each in document["customers"] if each["id"] == customer), None)


def plan_of(customer: str, document: Document) -> str | None:
    return (listed(customer, document) or {}).get("plan") or document.get("default_plan")


def thresholds(customer: str, slug: str, document: Document) -> list[tuple[Decimal, str]]:
    """The least usage that reaches each threshold, and its name; lowest first."""
    plan = plan_of(customer, document)
    return sorted(
        (
            EXACT.multiply(Decimal(limit["limit"]), Decimal(name[:-1])).scaleb(-2, EXACT)
            if name.endswith("%")
            else Decimal(name),
            name,
        )
        for each in document["plans"]
        if each["slug"] == plan
        for limit in each["limits"]
        if limit["meter"] == slug
        for name in limit["thresholds"]
    )


def plain(number: Decimal) -> str:
    text = format(number, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text
