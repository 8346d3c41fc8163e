"""Tally decides and counts like a brute force does, however its log is cut and restored."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import shard as shard_module
from pipeline import tally as tally_module
from pipeline.errors import Stop
from pipeline.intake import Intake
from pipeline.pack import Pack
from pipeline.record import Outgoing, Record
from pipeline.shard import restore
from pipeline.tally import DEDUPE_DAYS, TallyShard
from schemas import topics
from schemas.alert import Alert
from schemas.decisions import Status
from schemas.definitions import Definitions
from schemas.frame import Frame, Kind, seal
from tests.pipeline.brute_force import Crossing, Document, Outcome, Total, Usage, expect
from tests.pipeline.usage_log import core, frame_of

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NOVEMBER_MS = int(datetime(2026, 11, 1, tzinfo=UTC).timestamp()) * 1_000
DECEMBER_MS = int(datetime(2026, 12, 1, tzinfo=UTC).timestamp()) * 1_000


def meter(slug: str, aggregation: str, period: str = "month", **fields: Any) -> Document:
    value = {} if aggregation == "count" else {"value": "$.n"}
    return {
        "slug": slug,
        "event_type": "llm",
        "aggregation": aggregation,
        "period": period,
        "grace_hours": 72,
        **value,
        **fields,
    }


MODEL = {"model": "$.model"}
METERS = [
    meter("sum", "sum", group_by=MODEL),
    meter("sum_daily", "sum", "day", grace_hours=24),
    meter("count", "count", "day", grace_hours=0, group_by={"b": "$.region", "a": "$.model"}),
    meter("max", "max", group_by=MODEL),
    meter("min", "min", "day"),
    meter("latest", "latest", group_by=MODEL),
    meter("latest_daily", "latest", "day"),
    meter("other", "sum", event_type="other"),
]
ADDED = meter("added", "count", group_by=MODEL)


def plan(slug: str, limit: str, names: Sequence[str]) -> Document:
    limits = [{"meter": m["slug"], "limit": limit, "thresholds": list(names)} for m in METERS]
    return {"slug": slug, "limits": limits}


#: What may hold after a change of the definitions: other limits, other plans, one more meter.
BEFORE: Document = {
    "meters": METERS,
    "plans": [
        plan("free", "10", ["50%", "100%", "10", "0.000000001", "33.3%"]),
        plan("pro", "1000", ["0%", "80%", "100%", "1200", "-3"]),
    ],
    "customers": [{"id": "c1", "plan": "free"}, {"id": "c2", "plan": "pro"}, {"id": "c3"}],
}
AFTER: Document = {
    "meters": [*METERS, ADDED],
    "plans": [
        plan("free", "20", ["25%", "50%", "100%", "10"]),
        plan("pro", "5", ["20%", "80%", "100%"]),
    ],
    "customers": [{"id": "c1", "plan": "pro"}, {"id": "c2", "plan": "pro"}, {"id": "c4"}],
}


@dataclass
class Play:
    """A log of one shard, counted step by step; the memory may be dropped at any time."""

    shard: TallyShard = field(default_factory=lambda: TallyShard(0, restore([])))
    log: list[tuple[int, Frame]] = field(default_factory=list)
    changelog: list[Outgoing] = field(default_factory=list)
    outgoing: list[Outgoing] = field(default_factory=list)
    counted: int = 0

    def append(self, frames: Sequence[Outgoing]) -> None:
        """Write to the log."""
        for each in frames:
            assert each.topic == topics.METERED.name, each
            self.log.append((len(self.log), frame_of(each)))

    def step(self, count: int) -> None:
        """Count the next `count` records of the log."""
        outgoing = self.shard.step(self.log[self.counted : self.counted + count])
        self.counted += count
        assert self.shard.state.next_offset == self.counted
        self.outgoing += outgoing
        self.changelog += [each for each in outgoing if each.topic == topics.TALLY_STATE.name]

    def drop_memory(self, from_anchor: bool = True) -> None:
        """Restore from the changelog, as after a crash."""
        anchors = [index for index, each in enumerate(self.changelog) if each.anchor]
        begin = anchors[-1] if anchors and from_anchor else 0
        frames = [frame_of(each) for each in self.changelog[begin:]]
        self.shard = TallyShard(0, restore(frames))
        assert self.shard.state.next_offset == self.counted

    def frames(self, topic: str) -> list[Frame]:
        return [frame_of(each) for each in self.outgoing if each.topic == topic]

    def outcome(self) -> Outcome:
        """What can be seen from outside; events by their position in usage.events."""
        found = Outcome()
        offsets = {offset: Pack(f) for offset, f in self.log if f.kind is Kind.PACK}
        statuses: dict[int, str] = {}
        decided = []
        for frame in self.frames(topics.DECISIONS.name):
            status, late = frame.parts
            decided.append(frame.header["pack_offset"])
            events = offsets[decided[-1]].numbers("source_offset").tolist()
            names = [Status(code).name.lower() for code in status.column("status").to_pylist()]
            statuses |= dict(zip(events, names, strict=True))
            found.late_for |= {(events[row["index"]], row["meter"]) for row in late.to_pylist()}
        assert decided == list(offsets)
        found.statuses = [statuses[offset] for offset in sorted(statuses)]
        version = -1
        for frame in self.frames(topics.TOTALS.name):
            assert frame.header["version"] >= version
            version = frame.header["version"]
            for row in frame.parts[0].to_pylist():
                start_ms = (row["period_start"] - EPOCH) // timedelta(milliseconds=1)
                key = row["customer"], row["meter"], start_ms, row["group"]
                as_of_ms = (row["as_of"] - EPOCH) // timedelta(milliseconds=1)
                found.totals[key] = Total(row["value"], row["events"], as_of_ms)
                # A group that has not changed keeps an older usage; the newest version holds.
                found.usage[key[:3]] = row["usage"]
        for each in self.outgoing:
            if each.topic == topics.ALERTS.name:
                alert = Alert.model_validate_json(each.value or b"")
                assert each.key == alert.customer.encode()
                assert alert.event_source == "/brute"
                found.alerts.append(
                    Crossing(
                        alert.customer,
                        alert.meter,
                        (alert.period_start - EPOCH) // timedelta(milliseconds=1),
                        alert.threshold,
                        alert.value,
                        alert.event_id,
                        (alert.crossed_at - EPOCH) // timedelta(milliseconds=1),
                    )
                )
        return found


def arriving(events: Sequence[Usage], begin: int = 0) -> list[Record]:
    return [
        Record(topics.EVENTS.name, 0, begin + index, event.received_ms, None, event.as_json())
        for index, event in enumerate(events)
    ]


def intake(document: Document) -> Intake:
    return Intake(Definitions.model_validate(document), shards=1)


def play(
    events: Sequence[Usage], document: Document = BEFORE, steps: Sequence[int] = ()
) -> tuple[Play, Outcome]:
    """Count events, each in a pack of its own, in steps of given lengths and then all at once."""
    played = Play()
    cutter = intake(document)
    played.append(cutter.announce())
    for record in arriving(events):
        played.append(cutter.step([record]))
    for count in (1, *steps, len(events) - sum(steps)):
        if count:
            played.step(count)
    return played, played.outcome()


# Everything at once: any log, any cut, any crash, against a brute force

values = st.one_of(
    st.integers(-4, 12).map(str),
    st.sampled_from(["0.000000001", "-0.000000001", "0.5", "7.123456789", "3.33", "-12.5"]),
    st.sampled_from(["1e3", "99999999999999999999999999999999999999", "-9" + "0" * 37]),
    st.sampled_from(["9223372036854775807", "9223372036854775808", "-9223372036854775808"]),
    st.sampled_from(["12345678901234567890123456789.123456789", "4611686018427387904"]),
)
#: Around the end of November, of a day, and of the periods' grace.
times = st.builds(
    lambda base, off: base * 1_000 + off,
    st.sampled_from([DECEMBER_MS, DECEMBER_MS - DAY_MS, DECEMBER_MS - 5 * DAY_MS, NOVEMBER_MS]),
    st.sampled_from([-1, 0, 1, 1_000, 3_600_000_000]),
)
arrivals = st.builds(
    lambda base, off: base + off,
    st.sampled_from([DECEMBER_MS - 5 * DAY_MS, DECEMBER_MS, DECEMBER_MS + DAY_MS])
    | st.just(DECEMBER_MS + 3 * DAY_MS),
    st.sampled_from([-1, 0, 1, HOUR_MS]),
)
usages = st.builds(
    Usage,
    id=st.integers(0, 60).map(str),
    customer=st.sampled_from(["c1", "c1", "c2", "c3", "c4", "stranger"]),
    type=st.sampled_from(["llm", "llm", "llm", "other", "unmetered"]),
    time_us=times,
    received_ms=arrivals,
    data=st.fixed_dictionaries(
        {"n": values},
        optional={"model": st.sampled_from(["m", "x", ""]), "region": st.sampled_from(["m", "e"])},
    ),
)


@st.composite
def streams(draw: st.DrawFn) -> list[Usage]:
    """Any events, some of them sent again as they were, at another time of arrival."""
    events: list[Usage] = []
    for fresh in draw(st.lists(usages, min_size=1, max_size=30)):
        events.append(fresh)
        if draw(st.integers(0, 4)) == 0:
            copied = events[draw(st.integers(0, len(events) - 1))]
            events.append(copied._replace(received_ms=fresh.received_ms))
    return events


lengths = st.lists(st.integers(1, 9), max_size=12)


def pieces(count: int, wanted: Sequence[int]) -> list[tuple[int, int]]:
    """Where `count` things are cut into pieces of the wanted lengths, and one of the rest."""
    bounds = [0]
    for length in wanted:
        bounds.append(min(count, bounds[-1] + length))
    return [(b, e) for b, e in zip(bounds, [*bounds[1:], count], strict=True) if b < e]


def count_all(
    phases: Sequence[tuple[Document, Sequence[Usage]]], draw: st.DataObject, crash: bool
) -> Outcome:
    """Take in and count phase by phase, cutting and crashing wherever `draw` says."""
    played = Play()
    begin = 0
    for document, events in phases:
        cutter = intake(document)
        played.append(cutter.announce())
        records = arriving(events, begin)
        begin += len(events)
        for first, last in pieces(len(records), draw.draw(lengths)):
            played.append(cutter.step(records[first:last]))
    for first, last in pieces(len(played.log), draw.draw(lengths)):
        played.step(last - first)
        if crash and draw.draw(st.booleans()):
            played.drop_memory(from_anchor=draw.draw(st.booleans()))
    return played.outcome()


@core(200)
@given(streams(), st.data())
def test_any_log_however_it_is_cut_is_counted_like_event_by_event(
    events: list[Usage], data: st.DataObject
) -> None:
    found = count_all([(BEFORE, events)], data, crash=False)
    assert found == expect([(event, BEFORE) for event in events])


@core(120)
@given(streams(), st.data())
def test_dropping_the_memory_at_any_point_changes_nothing(
    events: list[Usage], data: st.DataObject
) -> None:
    with pytest.MonkeyPatch.context() as small:
        # Snapshots every few events, in frames of two rows.
        small.setattr(tally_module, "_SNAPSHOT_IDS", data.draw(st.integers(1, 10)))
        small.setattr(tally_module, "_SEGMENT_IDS", data.draw(st.integers(0, 1)))
        small.setattr(shard_module, "_ROWS_MAX", data.draw(st.sampled_from([1, 2, 100])))
        small.setattr(shard_module, "_TEXT_MAX", data.draw(st.sampled_from([1, 20, 10_000])))
        found = count_all([(BEFORE, events)], data, crash=True)
    assert found == expect([(event, BEFORE) for event in events])


@core(120)
@given(streams(), streams(), st.sampled_from([None, "free", "pro"]), st.data())
def test_other_definitions_in_the_middle_of_the_log_hold_from_there_on(
    first: list[Usage], second: list[Usage], default: str | None, data: st.DataObject
) -> None:
    after = AFTER | {"default_plan": default}
    found = count_all([(BEFORE, first), (after, second), (BEFORE, first)], data, crash=True)
    log = [(event, BEFORE) for event in first] + [(event, after) for event in second]
    # What was sent before, sent again.
    again = [(event._replace(), BEFORE) for event in first]
    assert found == expect(log + again)


# One by one


def used(
    event_id: str,
    n: object = 1,
    customer: str = "c1",
    received_ms: int = DECEMBER_MS - 10 * DAY_MS,
    time_ms: int = DECEMBER_MS - 10 * DAY_MS,
    event_type: str = "llm",
) -> Usage:
    return Usage(event_id, customer, event_type, time_ms * 1_000, received_ms, {"n": str(n)})


def limited(*names: str, limit: str = "100", **fields: Any) -> Document:
    return {
        "meters": [meter("sum", "sum", **fields)],
        "plans": [
            {"slug": "p", "limits": [{"meter": "sum", "limit": limit, "thresholds": list(names)}]}
        ],
        "customers": [{"id": "c1", "plan": "p"}],
    }


def fired(found: Outcome) -> list[tuple[str, str, str]]:
    return [(alert.threshold, alert.value, alert.event_id) for alert in found.alerts]


@pytest.mark.parametrize("steps", [(), (1,), (1, 1), (2,)])
def test_one_event_that_crosses_n_thresholds_gives_n_alerts_lowest_first(
    steps: tuple[int, ...],
) -> None:
    document = limited("100%", "50%", "120", "80%")
    events = [used("1", 49), used("2", "71.5"), used("3", 500)]
    assert fired(play(events, document, steps)[1]) == [
        ("50%", "120.5", "2"),
        ("80%", "120.5", "2"),
        ("100%", "120.5", "2"),
        ("120", "120.5", "2"),
    ]


def test_an_alert_says_what_the_plan_said_and_when_the_event_arrived() -> None:
    played, _ = play([used("1", 80)], limited("80%"))
    (alert,) = (each for each in played.outgoing if each.topic == topics.ALERTS.name)
    assert json.loads(alert.value or b"") == {
        "customer": "c1",
        "meter": "sum",
        "period_start": "2026-11-01T00:00:00Z",
        "period_end": "2026-12-01T00:00:00Z",
        "plan": "p",
        "limit": "100",
        "threshold": "80%",
        "value": "80",
        "crossed_at": "2026-11-21T00:00:00Z",
        "event_source": "/brute",
        "event_id": "1",
    }


@pytest.mark.parametrize("restored", [False, True])
def test_a_threshold_fires_once_though_usage_falls_and_rises_and_memory_is_lost(
    restored: bool,
) -> None:
    cutter = intake(limited("50%"))
    played = Play()
    played.append(cutter.announce())
    for record in arriving([used("1", 60), used("2", -60), used("3", 60), used("4", 1)]):
        played.append(cutter.step([record]))
        played.step(len(played.log) - played.counted)
        if restored:
            played.drop_memory()
    assert fired(played.outcome()) == [("50%", "60", "1")]


def test_a_threshold_that_fired_is_silent_when_the_limit_is_raised_and_reached_again() -> None:
    played = Play()
    events = arriving([used("1", 60), used("2", 100), used("3", 5)])
    for record, limit in zip(events, ("100", "200", "300"), strict=True):
        cutter = intake(limited("50%", "80%", limit=limit))
        played.append(cutter.announce())
        played.append(cutter.step([record]))
        played.step(2)
    assert fired(played.outcome()) == [("50%", "60", "1"), ("80%", "160", "2")]


def test_the_next_period_fires_anew() -> None:
    december = used("2", 60, time_ms=DECEMBER_MS, received_ms=DECEMBER_MS)
    _, found = play([used("1", 60), december, used("3", 60)], limited("50%"))
    assert [(a.event_id, a.period_start_ms) for a in found.alerts] == [
        ("1", NOVEMBER_MS),
        ("2", DECEMBER_MS),
    ]


def test_a_meter_counts_from_the_first_pack_that_knows_it() -> None:
    played = Play()
    document = limited()
    before, after = intake(document), intake({**document, "meters": [*document["meters"], ADDED]})
    events = arriving([used("1"), used("2"), used("3")])
    played.append([*before.announce(), *before.step(events[:1]), *after.announce()])
    # A pack that another instance of intake had cut before it was told.
    played.append([*before.step(events[1:2]), *after.step(events[2:])])
    played.step(5)
    counted = {key[1]: total.events for key, total in played.outcome().totals.items()}
    assert counted == {"sum": 3, "added": 1}


def test_late_for_every_meter_is_late_and_late_for_some_is_accepted() -> None:
    two = limited() | {"meters": [meter("sum", "sum"), meter("daily", "count", "day")]}
    end_of_day = DECEMBER_MS - 9 * DAY_MS
    on_time, too_late = end_of_day + 72 * HOUR_MS, end_of_day + 72 * HOUR_MS + 1
    much_too_late = DECEMBER_MS + 72 * HOUR_MS + 1
    events = [
        used("1", received_ms=on_time),
        used("2", received_ms=too_late),
        used("3", received_ms=much_too_late),
        used("4", received_ms=much_too_late, event_type="unmetered"),
        used("3", received_ms=much_too_late),
    ]
    _, found = play(events, two)
    assert found.statuses == ["accepted", "accepted", "late", "accepted", "duplicate"]
    assert found.late_for == {(1, "daily")}
    assert {key[1]: total.events for key, total in found.totals.items()} == {"sum": 2, "daily": 1}


def test_an_unknown_customer_is_parked_and_counts_from_when_it_is_known() -> None:
    played = Play()
    known = limited() | {"default_plan": "p"}
    events = [used("1", customer="new"), used("2", customer="new"), used("1", customer="new")]
    for document, record in zip((limited(), known, known), arriving(events), strict=True):
        cutter = intake(document)
        played.append([*cutter.announce(), *cutter.step([record])])
        played.step(2)
    found = played.outcome()
    assert found.statuses == ["unknown", "accepted", "duplicate"]
    assert [total.events for total in found.totals.values()] == [1]


def test_every_difference_under_a_known_identity_is_a_conflict() -> None:
    first = used("1", 5)
    copies = [
        first,
        first,
        first._replace(received_ms=first.received_ms + DAY_MS),
        first._replace(data={"n": "6"}),
        first._replace(data={"n": 5}),
        first._replace(type="other"),
        first._replace(customer="c2"),
        first._replace(time_us=first.time_us + 1),
    ]
    _, found = play(copies)
    assert found.statuses == ["accepted", "duplicate", "duplicate", *["conflict"] * 5]
    (november,) = [total for key, total in found.totals.items() if key[1] == "sum"]
    assert november.value == "5"


# Time: what is forgotten when


def decided(arrival_days: Sequence[int], document: Document, steps: Sequence[int]) -> list[str]:
    """What becomes of copies of one event of no meter that arrive on these days."""
    day = DECEMBER_MS // DAY_MS
    events = [
        used("1", event_type="unmetered", received_ms=(day + offset) * DAY_MS)
        for offset in arrival_days
    ]
    return play(events, document, steps)[1].statuses


@pytest.mark.parametrize("steps", [(), (1,), (1, 1), (2, 1)])
@pytest.mark.parametrize(
    ("arrival_days", "expected"),
    [
        ([0, DEDUPE_DAYS, 1], "accepted duplicate duplicate"),
        ([0, DEDUPE_DAYS + 1, 36], "accepted accepted duplicate"),
        # Arrivals that run far behind, or jump far ahead and come back.
        ([0, -200, -200], "accepted duplicate duplicate"),
        ([-200, -200, -200], "accepted duplicate duplicate"),
        ([0, -200, 30], "accepted duplicate duplicate"),
    ],
)
def test_a_copy_is_recognised_for_35_days_of_the_log(
    arrival_days: list[int], expected: str, steps: tuple[int, ...]
) -> None:
    assert decided(arrival_days, limited(), steps) == expected.split()


def test_events_that_arrive_far_behind_the_newest_one_are_still_recognised() -> None:
    day = DECEMBER_MS // DAY_MS
    old = (day - 100) * DAY_MS
    events = [
        used("new", event_type="unmetered", received_ms=day * DAY_MS),
        *[used("old", event_type="unmetered", received_ms=old) for _ in range(3)],
    ]
    assert play(events, steps=(1, 1, 1))[1].statuses == ["accepted", "accepted", *["duplicate"] * 2]


def test_a_copy_is_recognised_as_long_as_it_could_still_count() -> None:
    far = 120 * DAY_MS
    document = limited(grace_hours=24 * 120)
    events = [used("1"), used("1", received_ms=DECEMBER_MS + far), used("2")]
    assert play(events, document)[1].statuses == ["accepted", "duplicate", "accepted"]
    later = [used("1"), used("1", received_ms=DECEMBER_MS + far + 2 * DAY_MS)]
    assert play(later, document)[1].statuses == ["accepted", "late"]


def test_ids_that_have_expired_give_their_memory_back() -> None:
    played = Play()
    cutter = intake(limited())
    played.append(cutter.announce())
    for day in range(120):
        events = [
            used(f"{day}-{n}", received_ms=DECEMBER_MS + day * DAY_MS, event_type="unmetered")
            for n in range(20)
        ]
        played.append(cutter.step(arriving(events)))
        played.step(len(played.log) - played.counted)
        # 35 days of identities, 35 days of disorder, and the day on which they are dropped.
        assert len(played.shard.state.ids) <= 20 * (DEDUPE_DAYS + 35 + 3)
    assert len(played.shard.state.ids) >= 20 * DEDUPE_DAYS


# Outputs


def test_a_replay_writes_the_same_bytes() -> None:
    events = [used(f"{n}", n * Decimal("0.3"), f"c{n % 3}") for n in range(40)]
    once, again = (play(events, steps=(3, 10))[0].outgoing for _ in range(2))
    assert once == again


def test_every_output_lies_in_the_shard_of_its_input_but_alerts_go_by_customer() -> None:
    shard = TallyShard(5, restore([]))
    cutter = intake(limited("50%"))
    log = [*cutter.announce(), *cutter.step(arriving([used("1", 60)]))]
    outgoing = shard.step([(offset, frame_of(each)) for offset, each in enumerate(log)])
    assert {(each.topic, each.partition) for each in outgoing} == {
        (topics.DECISIONS.name, 5),
        (topics.TOTALS.name, 5),
        (topics.TALLY_STATE.name, 5),
        (topics.ALERTS.name, None),
    }


def test_nothing_counted_is_nothing_written_but_decisions_and_state() -> None:
    played, _ = play([used("1", event_type="unmetered"), used("2", customer="stranger")])
    assert not played.frames(topics.TOTALS.name)
    assert len(played.frames(topics.DECISIONS.name)) == 2


@pytest.mark.parametrize("restored", [False, True])
def test_snapshots_come_as_often_as_the_shard_doubles(
    restored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tally_module, "_SNAPSHOT_IDS", 10)
    monkeypatch.setattr(tally_module, "_SEGMENT_IDS", 0)
    played = Play()
    cutter = intake(limited())
    played.append(cutter.announce())
    for record in arriving([used(f"{n}", event_type="unmetered") for n in range(100)]):
        played.append(cutter.step([record]))
        played.step(len(played.log) - played.counted)
        if restored:
            played.drop_memory()
    anchors = [each for each in played.changelog if each.anchor]
    # Each costs no more than what was written since the one before.
    assert [len(restore([frame_of(each)]).ids) for each in anchors] == [10, 20, 40, 80]
    assert [frame_of(each).header["reset"] for each in anchors] == [True] * 4


def test_snapshots_also_come_when_only_copies_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally_module, "_SNAPSHOT_IDS", 1_000)
    played, found = play([used("1")] * 20, steps=[1] * 19)
    assert found.statuses == ["accepted", *["duplicate"] * 19]
    assert sum(each.anchor for each in played.changelog) == 4


def test_a_pack_cut_by_definitions_that_were_never_announced_stops_the_shard() -> None:
    (pack,) = intake(BEFORE).step(arriving([used("1")]))
    with pytest.raises(Stop, match="never announced"):
        TallyShard(3, restore([])).step([(0, frame_of(pack))])


def test_a_frame_that_does_not_belong_in_the_log_stops_the_shard() -> None:
    with pytest.raises(Stop, match="TOTALS"):
        TallyShard(3, restore([])).step([(0, frame_of(Outgoing("", seal(Kind.TOTALS, {}))))])
