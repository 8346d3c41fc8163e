"""The ClickHouse sink on the real engine: the same rows, whatever is written again."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest

from pipeline.errors import Stop
from pipeline.intake import Intake
from pipeline.record import Record, Sink, Written
from schemas import topics
from schemas.decisions import LATE_COLUMNS, STATUS_COLUMNS, Status
from schemas.definitions import Definitions
from schemas.frame import Kind, seal
from sinks.clickhouse.connect import Connection
from sinks.clickhouse.migrate import migrate
from sinks.clickhouse.write import BYTES_MAX, ROWS_MAX, ClickHouseSink, insertable
from tests.sinks.clickhouse.seeded_log import Place, SeededLog, rows_in

NOW_MS = 0
_NAUGHTY: list[str] = json.loads(
    (Path(__file__).parents[3] / "../shared/data/blns.json").read_text("utf-8")
)
HOSTILE = [
    *dict.fromkeys(text for text in _NAUGHTY if text),
    "nul \0 inside",
    "\0",
    "quotes ' \" ` \\ and \\' and ;",
    "{x:String} %(x)s %s",
    "\N{RIGHT-TO-LEFT OVERRIDE}right to left\N{PILE OF POO}",
    "e\N{COMBINING ACUTE ACCENT} is not \N{LATIN SMALL LETTER E WITH ACUTE}",
    "\t\n\r tail ",
]


def play(log: SeededLog, seed: int, clickhouse: Connection, sinks: type[ClickHouseSink]) -> bool:
    """Whether sinks that read `log` one after the other end with its rows, and at its end.

    Each may die before its positions are committed; the first one surely does.
    """
    rng = random.Random(seed)
    committed: dict[Place, int] = {}
    finished = False
    deaths = 0
    while not finished:
        sink = sinks(clickhouse)
        finished = True
        for number, batch in enumerate(log.batches(committed, rng)):
            written = sink.write(batch, NOW_MS)
            if deaths < 20 and (rng.random() < 0.4 or (not deaths and number == 3)):
                finished = False
                deaths += 1
                break
            committed.update(written.positions)
    end = {place: records[-1].offset + 1 for place, records in log.records.items()}
    with clickhouse.client() as client:
        return rows_in(client) == log.expected and committed == end


@pytest.mark.parametrize("seed", range(6))
def test_any_batches_and_any_redelivery_end_as_the_same_rows(
    clickhouse: Connection, seed: int
) -> None:
    """Without merges, so that FINAL alone has to see that a row was written twice."""
    log = SeededLog(seed)
    assert all(log.expected.values()), "the log must reach every table"
    with clickhouse.client() as client:
        client.command("SYSTEM STOP MERGES")
    assert play(log, seed, clickhouse, ClickHouseSink)
    with clickhouse.client() as client:
        written = client.query(
            "SELECT sum(rows) FROM system.parts WHERE active AND database = currentDatabase() "
            "AND table IN ('events', 'set_aside', 'rejections', 'alerts')"
        ).result_rows[0][0]
    once = sum(map(len, log.expected.values())) - len(log.expected["totals"])
    assert written > once, "no row was written twice: the test shows nothing"


class CommitsUndecidedPacks(ClickHouseSink):
    """Planted bug: the positions run ahead of the packs that wait for their decisions."""

    def write(self, records: Sequence[Record], now_ms: int) -> Written:
        """As the sink, with the last offsets seen as positions."""
        super().write(records, now_ms)
        return Written({(each.topic, each.partition): each.offset + 1 for each in records})


class ForgetsPacks(ClickHouseSink):
    """Planted bug: what waits is dropped between two writes."""

    def write(self, records: Sequence[Record], now_ms: int) -> Written:
        """As the sink, without its memory."""
        written = super().write(records, now_ms)
        self._pairings.clear()
        return written


@pytest.mark.parametrize("planted", [CommitsUndecidedPacks, ForgetsPacks])
def test_a_planted_bug_is_noticed(clickhouse: Connection, planted: type[ClickHouseSink]) -> None:
    """By a stop, other rows or other positions."""
    try:
        right = play(SeededLog(1), 1, clickhouse, planted)
    except Stop:
        return
    assert not right


def test_records_given_again_after_an_error_are_written_as_if_it_were_the_first_time(
    unmigrated: Connection,
) -> None:
    """The first write fails for want of tables; nothing of it may be remembered."""
    log = SeededLog(1)
    records = [record for of_place in log.records.values() for record in of_place]
    sink = ClickHouseSink(unmigrated)
    with pytest.raises(Stop, match="meterline migrate"):
        sink.write(records, NOW_MS)
    with unmigrated.client() as client:
        migrate(client)
    sink.write(records, NOW_MS)
    with unmigrated.client() as client:
        assert rows_in(client) == log.expected


def test_a_row_that_comes_twice_in_one_insert_counts_once(clickhouse: Connection) -> None:
    """Without merges: FINAL alone has to see it."""
    pack, decisions = _one_pack([{"data": 1}])
    other, other_decisions = (
        msgspec.structs.replace(each, partition=1) for each in (pack, decisions)
    )
    with clickhouse.client() as client:
        client.command("SYSTEM STOP MERGES")
    ClickHouseSink(clickhouse).write([pack, decisions, other, other_decisions], NOW_MS)
    with clickhouse.client() as client:
        assert client.query("SELECT count() FROM events").result_rows == [(2,)]
        assert client.query("SELECT count() FROM events FINAL").result_rows == [(1,)]


def test_a_pack_waits_for_its_decisions_and_its_position_with_it(clickhouse: Connection) -> None:
    pack, decisions = _one_pack([{"data": 1}])
    sink = ClickHouseSink(clickhouse)
    assert sink.write([pack], NOW_MS).positions == {(topics.METERED.name, 0): 0}
    assert sink.write([decisions], NOW_MS).positions == {
        (topics.METERED.name, 0): 1,
        (topics.DECISIONS.name, 0): 1,
    }
    with clickhouse.client() as client:
        assert len(rows_in(client)["events"]) == 1


@pytest.mark.parametrize("topic", [topics.METERED.name, topics.DECISIONS.name])
def test_a_partition_that_went_away_leaves_nothing_behind(
    clickhouse: Connection, topic: str
) -> None:
    """What waited is written by its next owner, and here only if it is read again."""
    pack, decisions = _one_pack([{"data": 1}])
    sink: Sink = ClickHouseSink(clickhouse)
    sink.write([pack], NOW_MS)
    sink.forget(topic, 0)
    sink.write([decisions], NOW_MS)
    with clickhouse.client() as client:
        assert not rows_in(client)["events"]
    sink.resume(topic, 0, None)
    sink.write([pack, decisions], NOW_MS)
    with clickhouse.client() as client:
        assert len(rows_in(client)["events"]) == 1


def test_the_topic_that_is_far_ahead_is_to_be_paused(clickhouse: Connection) -> None:
    """Large packs of which nothing is decided; the decisions let them go."""
    pack, decisions = _one_pack([{"data": "x" * 750_000}] * 4)
    sink = ClickHouseSink(clickhouse)
    packs = [msgspec.structs.replace(pack, offset=offset) for offset in range(4)]
    for each, expected in zip(packs[:3], [set(), set(), {(pack.topic, 0)}], strict=True):
        sink.write([each], NOW_MS)
        assert sink.ahead() == expected
    sink.write([decisions], NOW_MS)
    assert sink.ahead() == set()


def test_hostile_strings_are_stored_as_they_are(clickhouse: Connection) -> None:
    """As customer, source, id, type, data and meter; each stays in its own row."""
    events = [
        {"subject": text, "source": text, "id": text, "type": text, "data": {text: text}}
        for text in HOSTILE
    ]
    pack, decisions = _one_pack(events, late=list(enumerate(HOSTILE)))
    ClickHouseSink(clickhouse).write([pack, decisions], NOW_MS)
    with clickhouse.client() as client:
        rows = client.query(
            "SELECT customer, source, id, type, data, late_for FROM events FINAL "
            "ORDER BY source_offset"
        ).result_rows
    assert rows == [(text, text, text, text, json.dumps({text: text}), [text]) for text in HOSTILE]


def test_data_is_stored_byte_for_byte(clickhouse: Connection) -> None:
    """Spaces, escapes, long numbers and repeated names stay; no data is the empty string."""
    texts = [
        '{ "a" :1.50, "a": 1e2,\t"b":"\\u00e9\\/" }',
        "123456789012345678901234567890.000",
        "null",
        '"\\u0000"',
        "[[[[]]]]",
        "",
    ]
    pack, decisions = _one_pack([{}] * len(texts), raw_data=texts)
    ClickHouseSink(clickhouse).write([pack, decisions], NOW_MS)
    with clickhouse.client() as client:
        rows = client.query("SELECT data FROM events FINAL ORDER BY source_offset").result_rows
    assert [data for (data,) in rows] == texts


def test_binary_data_is_stored_as_the_json_that_it_encodes(clickhouse: Connection) -> None:
    pack, decisions = _one_pack([{"data_base64": "eyJ0b2tlbnMiOiA3fQ=="}])
    ClickHouseSink(clickhouse).write([pack, decisions], NOW_MS)
    with clickhouse.client() as client:
        assert client.query("SELECT data FROM events").result_rows == [('{"tokens": 7}',)]


def test_usual_and_unusual_events_are_read_alike_and_keep_their_order(
    clickhouse: Connection,
) -> None:
    """Escapes, data that is no object or comes first, and extensions, among many usual ones."""
    unusual: list[Mapping[str, object]] = [
        {"id": 'quoted "id"', "data": {"a": 1}},
        {"data": {"open": {"inner": [1, 2]}}},
        {"data": "text"},
        {"data": None},
        {"source": "/\N{PILE OF POO}", "data": {"a": "\N{PILE OF POO}"}},
        {"data_base64": "eyJ0b2tlbnMiOiA3fQ=="},
        {"traceparent": "00-0af7651916cd43dd8448eb211c80319c", "priority": 7, "data": {"a": 1}},
    ]
    events: list[Mapping[str, object]] = []
    for number, each in enumerate(unusual):
        events += [{"data": {"n": number, "data": "x", "id": "no"}}, {}, each]
    pack, decisions = _one_pack(events)
    ClickHouseSink(clickhouse).write([pack, decisions], NOW_MS)
    with clickhouse.client() as client:
        rows = client.query(
            "SELECT source, id, data FROM events FINAL ORDER BY source_offset"
        ).result_rows
    assert rows == [
        (
            event.get("source", "/service"),
            event.get("id", f"id-{offset}"),
            '{"tokens": 7}'
            if "data_base64" in event
            else json.dumps(event["data"])
            if "data" in event
            else "",
        )
        for offset, event in enumerate(events)
    ]


def test_packs_beyond_what_is_converted_at_once_keep_their_order(clickhouse: Connection) -> None:
    """Each with types and sources of its own, so with dictionaries of its own, too."""
    records = []
    for number in range(7):
        pack, decisions = _one_pack(
            [
                {
                    "type": f"t{number}",
                    "source": f"/s{number}",
                    "id": f"{number}-{n}",
                    "data": "x" * 700_000,
                }
                for n in range(5)
            ]
        )
        records += [msgspec.structs.replace(each, partition=number) for each in (pack, decisions)]
    ClickHouseSink(clickhouse).write(records, NOW_MS)
    with clickhouse.client() as client:
        rows = client.query(
            "SELECT id, type, source, length(data) FROM events FINAL ORDER BY id"
        ).result_rows
    assert rows == [
        (f"{number}-{n}", f"t{number}", f"/s{number}", 700_002)
        for number in range(7)
        for n in range(5)
    ]


def test_one_insert_is_one_month_and_bounded() -> None:
    """Hence one part of the table: whole or absent after a crash."""
    months = [datetime(2026, month, 15, tzinfo=UTC) for month in (11, 12, 11)]
    rows = pa.table({"time": pa.array(months * ROWS_MAX, pa.timestamp("ns", "UTC"))})
    parts = list(insertable(rows, "time"))
    assert [part.num_rows for part in parts] == [ROWS_MAX] * 3
    assert [len(part.column("time").unique()) for part in parts] == [1, 1, 1]
    large = pa.table({"data": pa.array([b"x" * (BYTES_MAX // 4)] * 7)})
    parts = list(insertable(large, None))
    assert sum(part.num_rows for part in parts) == 7
    assert max(part.num_rows for part in parts) <= 4


def _one_pack(
    events: Sequence[Mapping[str, object]],
    late: Sequence[tuple[int, str]] = (),
    raw_data: Sequence[str] | None = None,
) -> tuple[Record, Record]:
    """A pack of accepted events at offset 0 of partition 0, and its decisions."""
    records = []
    for offset, event in enumerate(events):
        attributes = {
            "specversion": "1.0",
            "id": f"id-{offset}",
            "source": "/service",
            "type": "call",
            "subject": "cus_1",
            "time": "2026-11-20T09:30:00Z",
            **event,
        }
        value = json.dumps(attributes)
        if raw_data is not None and raw_data[offset]:
            value = f'{value[:-1]}, "data": {raw_data[offset]}}}'
        records.append(
            Record(topics.EVENTS.name, 0, offset, 1_795_000_000_000, None, value.encode())
        )
    (pack,) = Intake(Definitions(), shards=1).step(records)
    assert pack.topic == topics.METERED.name
    decisions = seal(
        Kind.DECISIONS,
        {"pack_offset": 0},
        [
            pa.record_batch(
                [pa.array([Status.ACCEPTED] * len(events), pa.uint8())], schema=STATUS_COLUMNS
            ),
            pa.record_batch(
                [
                    pa.array([index for index, _ in late], pa.int32()),
                    pa.array([meter for _, meter in late], pa.string()),
                ],
                schema=LATE_COLUMNS,
            ),
        ],
    )
    return (
        Record(topics.METERED.name, 0, 0, 0, None, pack.value),
        Record(topics.DECISIONS.name, 0, 0, 0, None, decisions),
    )
