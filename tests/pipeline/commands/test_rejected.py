"""`meterline rejected`: dead letters are seen, and come back byte for byte, counted once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from pipeline.commands.rejected import Arrival, send_originals
from pipeline.commands.show_rejected import entry, table
from pipeline.open_frame import open_frame
from pipeline.record import Headers, Record
from pipeline.reject import DeadLetter, Wanted
from schemas import topics
from schemas.decisions import Status
from schemas.frame import Kind
from schemas.rejection import HEADER_OFFSET, HEADER_PARTITION, HEADER_REASON, HEADER_TOPIC
from schemas.total import read_totals
from schemas.usage_event import PACKED, STRUCTURED
from streams.backlog import backlog
from streams.dead_letters import Place, letters
from streams.local_kafka import LocalKafka
from streams.topics import create_topics
from tests.pipeline.usage_log import event
from tests.streams.on_kafka import read, wait_until

ROOT = Path(__file__).parents[3]
PROGRAM = "from pipeline.cli import main; main()"
NOW = datetime.now(UTC).replace(microsecond=0)

#: By these every event lacks its value; by the mended ones it has it.
WRONG, MENDED = "$.m", "$.n"


class Original(NamedTuple):
    """A record for usage.events, as its producer wrote it."""

    value: bytes | None
    key: bytes | None = None
    headers: Headers = ()


class Pipeline:
    """A broker, and intake and tally on it as processes, as long as there is work."""

    def __init__(self, address: str, directory: Path) -> None:
        self.address = address
        self._kafka = {"bootstrap.servers": address}
        self._directory = directory
        create_topics(self._kafka, topics.sized(shards=2, event_partitions=2), keep_for_ever=True)

    def send(self, *originals: Original, timestamp_ms: int = 0, to: str = "usage.events") -> None:
        producer = Producer(self._kafka)
        for each in originals:
            headers: Any = list(each.headers)
            producer.produce(
                to, value=each.value, key=each.key, headers=headers, timestamp=timestamp_ms
            )
        assert producer.flush(60) == 0

    def work(self, value_path: str) -> None:
        """Run intake with definitions of this value, and tally, until all is done."""
        with self._running("intake", value_path), self._running("tally", value_path):
            stages = {"intake": topics.EVENTS.name, "tally": topics.METERED.name}
            wait_until(
                lambda: not any(backlog(self._kafka, *each) for each in self._reads(stages)),
                "intake and tally have confirmed everything",
            )

    def command(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[bytes]:
        """Run `meterline rejected` to its end."""
        return subprocess.run(
            [sys.executable, "-c", PROGRAM, "rejected", *arguments],
            input=stdin.encode(),
            capture_output=True,
            cwd=ROOT,
            env={**os.environ, "COLUMNS": "200", "METERLINE_BOOTSTRAP_SERVERS": self.address},
            timeout=120,
        )

    def replay(self, *arguments: str) -> dict[str, str]:
        """Replay without being asked: old position to new position."""
        ended = self.command("replay", "--yes", *arguments)
        assert ended.returncode == 0, ended.stderr.decode()
        *moves, last = ended.stdout.decode().splitlines()
        assert last == f"Sent {len(moves)} of {len(moves)} to usage.events."
        return dict(move.split(" → ") for move in moves)

    def listed(self, *arguments: str) -> list[dict[str, Any]]:
        ended = self.command("list", "--json", *arguments)
        assert ended.returncode == 0, ended.stderr.decode()
        return [json.loads(line) for line in ended.stdout.splitlines()]

    def events(self) -> dict[str, Record]:
        """What lies on usage.events, by position."""
        records = read(self.address, topics.EVENTS.name)
        return {f"{record.partition}/{record.offset}": record for record in records}

    def used(self, customer: str) -> tuple[str, int]:
        """The customer's one total: its value, and how many events it counts."""
        totals = [
            total
            for record in read(self.address, topics.TOTALS.name)
            for total in read_totals(open_frame(record))
            if total.customer == customer
        ]
        newest = max(totals, key=lambda total: total.version)
        return newest.value, newest.events

    def statuses(self, customer: str) -> Counter[str]:
        """How many of the customer's events ended how."""
        decided = {}
        for record in read(self.address, topics.DECISIONS.name):
            frame = open_frame(record)
            status = frame.parts[0].column("status").to_pylist()
            decided[record.partition, frame.header["pack_offset"]] = status
        counts: Counter[str] = Counter()
        for record in read(self.address, topics.METERED.name):
            frame = open_frame(record)
            if frame.kind is Kind.PACK:
                status = decided[record.partition, record.offset]
                names = frame.parts[0].column("customer").to_pylist()
                for name, each in zip(names, status, strict=True):
                    counts[Status(each).name.lower()] += name == customer
        return +counts

    @staticmethod
    def _reads(stages: dict[str, str]) -> list[tuple[str, list[str]]]:
        return [(stage, [topic]) for stage, topic in stages.items()]

    @contextmanager
    def _running(self, stage: str, value_path: str) -> Iterator[None]:
        config = self._directory / "meterline.yaml"
        meter = {"slug": "tokens", "event_type": "llm", "aggregation": "sum", "value": value_path}
        meter |= {"period": "day", "grace_hours": 0}  # type: ignore[dict-item]
        plans = {"plans": [{"slug": "free"}], "default_plan": "free"}
        config.write_text(json.dumps({"meters": [meter], **plans}))
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "run", stage, "--config", str(config)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            env={
                **os.environ,
                "METERLINE_BOOTSTRAP_SERVERS": self.address,
                "METERLINE_INSTANCE": "test",
                "METERLINE_STOP_WITH_STDIN": "1",
            },
        ) as process:
            try:
                yield
                assert process.poll() is None
            finally:
                assert process.stdin
                process.stdin.close()
                assert process.wait(60) == 0


def usage(
    event_id: str, customer: str, n: object = 1, *, at: datetime = NOW, headers: Headers = ()
) -> Original:
    """An event whose value is `n`, keyed by customer."""
    value = event(event_id, subject=customer, time=f"{at:%Y-%m-%dT%H:%M:%SZ}", data={"n": n})
    return Original(value, customer.encode(), headers)


def written(record: Record) -> Original:
    return Original(record.value, record.key, record.headers)


def milliseconds(at: datetime) -> int:
    return int(at.timestamp() * 1000)


#: Never events, whatever the definitions say; every one of them is keyed by this customer.
POISON = [
    Original(b'\xff\xfe\x00{"', b"poison"),
    Original(b"", b"poison", (("empty", b""), ("none", None))),  # type: ignore[arg-type]
    Original(None, b"poison", (("trace", b"\xff\x00"), ("trace", b"again"))),
    Original(
        b'{"half": ',
        b"poison",
        # Of a producer that says it were a dead letter, of another place and reason.
        (
            (HEADER_TOPIC, b"elsewhere"),
            (HEADER_PARTITION, b"999"),
            (HEADER_OFFSET, b"no number"),
            (HEADER_REASON, b"\x1b[31mhostile"),
        ),
    ),
]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """With dead letters of several customers, all rejected under wrong definitions."""
    with LocalKafka() as broker:
        pipeline = Pipeline(broker.address, tmp_path_factory.mktemp("pipeline"))
        pipeline.send(*(usage(f"once-{n}", "once", n) for n in (1, 2, 4)), *POISON)
        pipeline.send(
            usage("late-1", "late", at=NOW - timedelta(days=3)),
            usage("late-2", "late", 16, at=NOW - timedelta(days=3)),
            timestamp_ms=milliseconds(NOW - timedelta(days=3)),
        )
        for days in (36, 34):
            old = NOW - timedelta(days=days)
            pipeline.send(usage(str(days), "old", at=old), timestamp_ms=milliseconds(old))
        for hour, number in enumerate(["first", "second", "third"]):
            at = datetime(2026, 3, 1, hour, tzinfo=UTC)
            pipeline.send(usage(number, "listed", at=at), timestamp_ms=milliseconds(at))
        pipeline.send(usage("asked", "asked"), Original(b"no key"))
        pipeline.send(Original(b"far ahead", b"future"), timestamp_ms=2**62)
        # A stranger that may write to usage.rejected.
        pipeline.send(Original(b"stray", b"stray"), to=topics.REJECTED.name)
        pipeline.work(WRONG)
        yield pipeline


def test_what_wrong_definitions_rejected_counts_once_after_they_are_mended(
    pipeline: Pipeline,
) -> None:
    before = pipeline.events()
    (rejected,) = {each["reason"] for each in pipeline.listed("--customer", "once")}
    assert rejected == "missing_value"

    # Meanwhile its producer sends one of them again by itself.
    pipeline.send(usage("once-2", "once", 2))
    pipeline.work(MENDED)
    assert pipeline.used("once") == ("2", 1)

    moved = [pipeline.replay("--customer", "once") for _ in range(2)]
    pipeline.work(MENDED)

    assert pipeline.used("once") == ("7", 3)
    assert pipeline.statuses("once") == {"accepted": 3, "duplicate": 4}
    after = pipeline.events()
    assert len(pipeline.listed("--customer", "once")) == 3, "none was rejected again"
    for moves in moved:
        assert len(moves) == 3
        for old, new in moves.items():
            assert new not in before
            assert written(after[new]) == written(before[old])
            assert after[new].timestamp_ms >= milliseconds(NOW)


def test_what_is_still_unusable_is_rejected_again_and_is_byte_for_byte_the_same(
    pipeline: Pipeline,
) -> None:
    listed = pipeline.listed("--customer", "poison")
    assert [each["customer_said_by"] for each in listed] == ["key"] * len(POISON)
    positions = [each["position"] for each in listed]
    moved = pipeline.replay(*positions)
    pipeline.work(MENDED)

    again = pipeline.listed("--customer", "poison")
    assert len(again) == 2 * len(POISON)
    assert {each["position"] for each in again} == {*moved.keys(), *moved.values()}
    events = pipeline.events()
    assert sorted(map(repr, POISON)) == sorted(repr(written(events[old])) for old in moved)
    for old, new in moved.items():
        assert written(events[new]) == written(events[old])
        shown = [pipeline.command("show", place, "--raw") for place in (old, new)]
        assert [each.stdout for each in shown] == [events[old].value or b""] * 2


def test_now_leaves_a_closed_period_alone_and_original_counts_into_it(pipeline: Pipeline) -> None:
    before = pipeline.events()
    places = {json.loads(before[each["position"]].value or b"")["id"]: each["position"]
              for each in pipeline.listed("--customer", "late")}  # fmt: skip
    pipeline.replay(places["late-1"])
    moved = pipeline.replay(places["late-2"], "--arrival", "original")
    pipeline.work(MENDED)
    assert pipeline.statuses("late") == {"late": 1, "accepted": 1}
    # What was late has claimed its id: it is too late to think again.
    pipeline.replay(places["late-1"], "--arrival", "original")
    pipeline.work(MENDED)
    assert pipeline.statuses("late") == {"late": 1, "accepted": 1, "duplicate": 1}
    assert pipeline.used("late") == ("16", 1)
    after = pipeline.events()
    assert [after[new].timestamp_ms for new in moved.values()] == [
        before[old].timestamp_ms for old in moved
    ]


def test_an_original_arrival_beyond_the_memory_of_identities_is_refused(
    pipeline: Pipeline,
) -> None:
    before = len(pipeline.events())
    refused = pipeline.command("replay", "--customer", "old", "--arrival", "original", "--yes")
    assert (refused.returncode, refused.stdout) == (2, b"")
    assert b"1 of these 2 arrived before" in refused.stderr
    assert b"Remedy: Replay these with --arrival now" in refused.stderr
    assert len(pipeline.events()) == before
    since = f"{NOW - timedelta(days=35):%Y-%m-%d}"
    assert len(pipeline.replay("--customer", "old", "--arrival=original", "--since", since)) == 1
    assert len(pipeline.replay("--customer", "old", "--until", since)) == 1


def test_an_original_arrival_is_refused_where_the_broker_sets_it(pipeline: Pipeline) -> None:
    _set_config(pipeline.address, "message.timestamp.type", "LogAppendTime")
    try:
        refused = pipeline.command("replay", "--customer=late", "--arrival=original", "--yes")
    finally:
        _set_config(pipeline.address, "message.timestamp.type", "CreateTime")
    assert (refused.returncode, refused.stdout) == (2, b"")
    assert b"message.timestamp.type=LogAppendTime" in refused.stderr
    assert b"Remedy: Replay with --arrival now." in refused.stderr


def _set_config(address: str, name: str, value: str) -> None:
    changed = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topics.EVENTS.name, incremental_configs=[changed])
    admin = AdminClient({"bootstrap.servers": address})
    for altered in admin.incremental_alter_configs([resource]).values():
        altered.result(60)


def test_nothing_is_sent_unless_a_person_agrees(pipeline: Pipeline) -> None:
    before = len(pipeline.events())
    chosen = ("replay", "--customer", "asked")
    for ended in (
        pipeline.command(*chosen),
        pipeline.command(*chosen, stdin="n\n"),
        pipeline.command(*chosen, "--dry-run", "--yes"),
    ):
        assert b"missing_value" in ended.stdout
        assert b"1 rejection: 1 missing_value" in ended.stdout
        assert b" \xe2\x86\x92 " not in ended.stdout
    assert len(pipeline.events()) == before
    agreed = pipeline.command(*chosen, stdin="y\n")
    assert agreed.returncode == 0
    assert b"Sent 1 of 1 to usage.events." in agreed.stdout
    assert len(pipeline.events()) == before + 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["replay", "--yes"], "Nothing says which rejections to replay."),
        (["replay", "0/999999", "--yes"], "There is no rejection of 0/999999"),
        (["show", "1/999999"], "There is no rejection of 1/999999"),
        (["show", "1-2"], "'1-2' is not PARTITION/OFFSET"),
        (["show", "1/\u0663"], "is not PARTITION/OFFSET"),
        (["list", "--reason", "bad"], "'bad' is none of too_large, malformed_json"),
        (["list", "--since", "yesterday"], "'yesterday' is neither RFC 3339"),
        (["list", "--until", "2026-02-30"], "'2026-02-30' is neither RFC 3339"),
    ],
)
def test_a_mistake_is_said_plainly_and_nothing_is_sent(
    arguments: list[str], said: str, pipeline: Pipeline
) -> None:
    before = len(pipeline.events())
    ended = pipeline.command(*arguments)
    assert (ended.returncode, ended.stdout) == (2, b"")
    errors = " ".join(ended.stderr.decode().replace("│", " ").split())
    assert said in errors
    assert "Traceback" not in errors
    assert len(pipeline.events()) == before


def test_a_list_is_by_arrival_and_counts_by_reason(pipeline: Pipeline) -> None:
    ended = pipeline.command("list", "--customer", "listed")
    assert ended.returncode == 0
    head, *rows, blank, summary = ended.stdout.decode().splitlines()
    assert head.split() == ["position", "arrived", "at", "customer", "reason", "message"]
    assert [row.split()[1] for row in rows] == [f"2026-03-01T0{n}:00:00.000Z" for n in range(3)]
    assert all("listed" in row and "missing_value" in row for row in rows)
    assert (blank, summary) == ("", "3 rejections: 3 missing_value")


@pytest.mark.parametrize(
    ("filters", "hours"),
    [
        (["--since", "2026-03-01", "--until", "2026-03-02"], [0, 1, 2]),
        (["--since", "2026-03-01T01:00:00Z"], [1, 2]),
        (["--since", "2026-03-01T02:00:00.001+00:00"], []),
        (["--until", "2026-03-01T03:00:00+01:00"], [0, 1]),
        (["--until", "2026-03-01"], []),
        (["--limit", "2"], [1, 2]),
        (["--reason", "missing_value", "--reason", "invalid_value"], [0, 1, 2]),
        (["--reason", "malformed_json"], []),
    ],
)
def test_filters_choose_by_time_and_reason(
    filters: list[str], hours: list[int], pipeline: Pipeline
) -> None:
    found = pipeline.listed("--customer", "listed", *filters)
    assert [each["received_at"] for each in found] == [
        f"2026-03-01T0{hour}:00:00.000Z" for hour in hours
    ]


def test_a_limited_list_says_what_it_leaves_out(pipeline: Pipeline) -> None:
    ended = pipeline.command("list", "--customer", "listed", "--limit", "1")
    assert ended.stdout.decode().splitlines()[-1] == (
        "3 rejections: 3 missing_value (the newest 1 are shown)"
    )


def test_what_a_stranger_wrote_is_left_out_aloud(pipeline: Pipeline) -> None:
    ended = pipeline.command("list")
    assert ended.returncode == 0
    assert b"stray" not in ended.stdout
    assert b"Records left out: 1. usage.rejected-" in ended.stderr
    assert b"Remedy: Find the program that wrote it" in ended.stderr


def test_one_is_shown_in_full_and_nothing_of_it_steers_the_terminal(pipeline: Pipeline) -> None:
    events = pipeline.events()
    (hostile,) = {
        place: record for place, record in events.items() if record.headers == POISON[3].headers
    }.keys() & {each["position"] for each in pipeline.listed("--customer", "poison")[:4]}
    ended = pipeline.command("show", hostile)
    shown = ended.stdout.decode()
    assert f"Position    {hostile}\n" in shown
    assert "Customer    poison (by its key)\n" in shown
    assert "Reason      malformed_json\n" in shown
    assert "Remedy      Send one CloudEvent as a JSON object in UTF-8.\n" in shown
    assert "Header      meterline.reason: \\x1b[31mhostile\n" in shown
    assert shown.endswith('Original    9 bytes\n\n{"half": \n')
    assert "\x1b" not in shown


def test_what_is_no_text_is_shown_as_a_dump_and_a_tombstone_as_one(pipeline: Pipeline) -> None:
    events = pipeline.events()
    shown = [
        pipeline.command("show", place).stdout.decode()
        for place in (each["position"] for each in pipeline.listed("--customer", "poison"))
        if events[place].value in (POISON[0].value, None)
    ]
    assert any("00000000  ff fe 00 7b 22" in text and '...{"' in text for text in shown)
    assert any("Original    no value: a tombstone" in text for text in shown)
    assert any("Header      trace: 0xff00" in text for text in shown)


def test_an_arrival_that_no_calendar_has_is_shown_as_its_number(pipeline: Pipeline) -> None:
    (each,) = pipeline.listed("--customer", "future")
    assert (each["received_at"], each["received_at_ms"]) == (None, 2**62)
    assert b"4611686018427387904 ms" in pipeline.command("list", "--customer=future").stdout


def test_what_is_rejected_after_a_person_agreed_is_not_sent(
    pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    kafka = {"bootstrap.servers": pipeline.address}
    wanted = Wanted(customer="listed")
    agreed = [entry(letter, place) for place, letter in letters(kafka, wanted)][:1]
    send_originals(kafka, wanted, agreed, Arrival.NOW)
    old, new, last = capsys.readouterr().out.replace(" → ", "\n").splitlines()
    assert last == "Sent 1 of 1 to usage.events."
    assert old == str(agreed[0].position)
    assert written(pipeline.events()[new]) == written(pipeline.events()[old])


def test_a_narrow_table_cuts_messages_and_nothing_else() -> None:
    record = Record("usage.events", 3, 1_207, 0, "Größe\x1b".encode(), b"", ())
    letter = DeadLetter(record, "missing_value", "m" * 100, "How.")
    entries = [entry(letter, Place(0, 0)), entry(letter._replace(message="short"), Place(0, 1))]
    assert list(table(entries, 87)) == [
        "position  arrived at                customer   reason         message",
        "3/1207    1970-01-01T00:00:00.000Z  Größe\\x1b  missing_value  " + "m" * 24 + "…",
        "3/1207    1970-01-01T00:00:00.000Z  Größe\\x1b  missing_value  short",
    ]
    assert [line[62:] for line in table(entries, 10)][1:] == ["m" * 19 + "…", "short"]
    assert [line[62:] for line in table(entries, None)][1:] == ["m" * 100, "short"]


def test_a_broker_that_is_not_there_or_has_no_topics_is_said_at_once(kafka: str) -> None:
    for address, code, said in [
        ("127.0.0.1:1", 75, "Kafka does not answer on 127.0.0.1:1"),
        (kafka, 2, f"has no topic {topics.REJECTED.name}"),
    ]:
        ended = subprocess.run(
            [sys.executable, "-c", PROGRAM, "rejected", "list", "--bootstrap-servers", address],
            capture_output=True,
            cwd=ROOT,
            text=True,
            timeout=120,
        )
        assert (ended.returncode, ended.stdout) == (code, "")
        assert said in ended.stderr
        assert "Remedy: " in ended.stderr
        assert "Traceback" not in ended.stderr


def test_an_event_that_came_packed_comes_back_alone(pipeline: Pipeline) -> None:
    texts = [usage(f"packed-{n}", "packed", n).value or b"" for n in (1, 2, 4)]
    headers = (("content-type", PACKED.encode()), ("trace", b"1"))
    pipeline.send(Original(b"[" + b", ".join(texts) + b"]", None, headers))
    pipeline.work(WRONG)
    first, second, third = (each["position"] for each in pipeline.listed("--customer", "packed"))
    assert (second, third) == (f"{first}/1", f"{first}/2")
    shown = pipeline.command("show", second, "--raw")
    assert shown.stdout == texts[1]
    moved = pipeline.replay(second)
    assert [*moved] == [second]
    alone = pipeline.events()[moved[second]]
    assert written(alone) == Original(
        texts[1], None, (("content-type", STRUCTURED.encode()), ("trace", b"1"))
    )
    pipeline.work(MENDED)
    assert pipeline.used("packed") == ("2", 1)
