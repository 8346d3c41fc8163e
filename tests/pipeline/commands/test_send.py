"""`meterline send` delivers every line as it stands, and says what it could not deliver."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from pipeline.commands.send import send_lines
from pipeline.ingest_file import Line
from pipeline.record import Record
from schemas.topics import EVENTS
from streams.ask_leader import answered
from streams.local_kafka import LocalKafka
from streams.producer import Producer
from streams.read import read_to_end
from streams.topics import create_topics

ROOT = Path(__file__).parents[3]
TRACE = ROOT / "../shared/data/azure_llm_code.csv"
PROGRAM = "from pipeline.cli import main; main()"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with LocalKafka() as broker:
        create_topics({"bootstrap.servers": broker.address}, keep_for_ever=True)
        yield broker.address


class Arrivals:
    """What arrives on usage.events from here on."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._admin = AdminClient({"bootstrap.servers": address})
        self._before = self._ends()

    def count(self) -> int:
        return sum(self._ends()) - sum(self._before)

    def records(self) -> list[Record]:
        kafka = {"bootstrap.servers": self._address}
        return [
            record
            for partition, begin in enumerate(self._before)
            for record in read_to_end(kafka, EVENTS.name, partition, begin)
        ]

    def _ends(self) -> list[int]:
        asked = {
            TopicPartition(EVENTS.name, partition): OffsetSpec.latest()  # type: ignore[no-untyped-call]
            for partition in range(EVENTS.partitions)
        }

        def ends() -> list[int]:
            answers = self._admin.list_offsets(asked)
            found = {at.partition: answer.result(10).offset for at, answer in answers.items()}
            return [found[partition] for partition in range(EVENTS.partitions)]

        return answered(ends)


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-c", PROGRAM, "send", *map(str, arguments)]


def meterline_send(
    *arguments: str | Path, stdin: bytes = b"", **environment: str
) -> tuple[int, str, str]:
    """Runs it to its end: exit code, output, errors."""
    ended = subprocess.run(
        command(*arguments),
        input=stdin,
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "300", **environment},
        timeout=120,
    )
    return ended.returncode, ended.stdout.decode(), ended.stderr.decode()


def event(number: int, **attributes: Any) -> bytes:
    return json.dumps(
        {
            "specversion": "1.0",
            "id": str(number),
            "source": "/test",
            "type": "llm",
            "subject": f"cus_{number % 7}",
            "time": "2026-11-20T09:30:00Z",
            "data": {"tokens": number},
        }
        | attributes
    ).encode()


def test_every_line_arrives_as_it_stands_keyed_by_customer(tmp_path: Path, address: str) -> None:
    lines = [event(number) for number in range(2_000)] + [b"{broken", b'\xff"', b"[1, 2]"]
    file = tmp_path / "events.ndjson"
    file.write_bytes(b"\n".join(lines) + b"\n\n")
    arrivals = Arrivals(address)

    code, output, errors = meterline_send(file, "--bootstrap-servers", address)

    assert (code, errors.strip()) == (0, "")
    assert "Sent 2,003 events in" in output
    records = arrivals.records()
    assert sorted(record.value or b"" for record in records) == sorted(lines)
    for record in records:
        if record.value in lines[:2_000]:
            assert record.key == json.loads(record.value)["subject"].encode()
            assert dict(record.headers)["content-type"] == b"application/cloudevents+json"
    for customer in {record.key for record in records if record.key}:
        sent = [record.value for record in records if record.key == customer]
        assert sent == [line for line in lines if line in sent]


def test_standard_input_is_sent_and_receivedat_becomes_the_arrival_time(address: str) -> None:
    arrivals = Arrivals(address)
    line = event(1, receivedat="2026-11-20T09:30:01.250Z")
    code, output, _ = meterline_send("-", stdin=line, METERLINE_BOOTSTRAP_SERVERS=address)
    assert (code, output.split(" in ")[0]) == (0, "Sent 1 event")
    (record,) = arrivals.records()
    assert record.timestamp_ms == 1_795_167_001_250
    assert json.loads(record.value or b"") == json.loads(event(1))


def test_the_real_trace_is_sent_through_a_mapping(address: str) -> None:
    arrivals = Arrivals(address)
    code, output, errors = meterline_send(
        *(TRACE, "--utc", "--map", "time=TIMESTAMP", "--map", "data.context=ContextTokens"),
        *("--set", "type=llm.request", "--set", "subject=cus_1"),
        METERLINE_BOOTSTRAP_SERVERS=address,
    )
    assert (code, errors.strip()) == (0, "")
    assert "Sent 8,819 events" in output
    events = [json.loads(record.value or b"") for record in arrivals.records()]
    assert {sent["id"] for sent in events} == {str(number) for number in range(1, 8_820)}
    assert {sent["source"] for sent in events} == {TRACE.name}
    assert f"source is the file's name, {TRACE.name}, and their ids are the rows' numbers" in output
    assert "--set source=..." in output


def test_a_file_with_a_source_of_its_own_and_a_byte_order_mark(
    tmp_path: Path, address: str
) -> None:
    table, lines = tmp_path / "usage.csv", tmp_path / "usage.ndjson"
    table.write_bytes(b"\xef\xbb\xbfat\n2026-11-20T09:30:00Z\n")
    lines.write_bytes(b"\xef\xbb\xbf" + event(1))
    arrivals = Arrivals(address)
    code, output, _ = meterline_send(
        *(table, "--map", "time=at", "--set", "type=t", "--set", "subject=cus_1"),
        *("--set", "source=feb"),
        METERLINE_BOOTSTRAP_SERVERS=address,
    )
    assert (code, len(output.splitlines())) == (0, 1), "how it is identified is no news"
    assert meterline_send(lines, METERLINE_BOOTSTRAP_SERVERS=address)[0] == 0
    sources = [json.loads(record.value or b"")["source"] for record in arrivals.records()]
    assert sorted(sources) == ["/test", "feb"]


def test_a_csv_file_with_a_bad_row_says_what_was_sent_and_where_it_stopped(
    tmp_path: Path, address: str
) -> None:
    file = tmp_path / "usage.csv"
    file.write_text("at,who\n2026-11-20T09:30:00Z,cus_1\n2026-11-20T09:30:00Z\n")
    code, output, errors = meterline_send(
        *(file, "--map", "time=at", "--map", "subject=who", "--set", "type=llm"),
        METERLINE_BOOTSTRAP_SERVERS=address,
    )
    assert code == 2
    assert "Sent 1 event in" in output
    assert "Row 2 of the CSV file has 1 cells" in errors
    assert "Remedy: Correct the row" in errors


def test_a_csv_cell_may_be_as_long_as_an_event_and_longer(tmp_path: Path, address: str) -> None:
    file = tmp_path / "usage.csv"
    file.write_text(f"at,text,rest\n2026-11-20T09:30:00Z,{'x' * 1_000_000},{'y' * 2_000_000}\n")
    arrivals = Arrivals(address)
    code, _, errors = meterline_send(
        *(file, "--map", "time=at", "--map", "data.text=text"),
        *("--set", "type=llm", "--set", "subject=cus_1"),
        METERLINE_BOOTSTRAP_SERVERS=address,
    )
    assert (code, errors.strip()) == (0, "")
    (record,) = arrivals.records()
    assert json.loads(record.value or b"")["data"] == {"text": "x" * 1_000_000}


@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        (["none.ndjson"], b"", "none.ndjson cannot be read: No such file"),
        (["."], b"", "cannot be read: Is a directory"),
        (["-", "--map", "time=a"], b"a\n", "--map, --set and --utc are for CSV, and - is read as"),
        (["-", "--format", "ndjson", "--set", "type=t"], b"", "are for CSV"),
        (["usage.txt", "--utc"], b"", "are for CSV"),
        (["-", "--format", "csv", "--map", "time=a"], b"a\n", "type is neither mapped nor set"),
        (
            ["-", "--format", "csv", *(f"--map={name}=a" for name in ("time", "subject", "type"))],
            b"a\n",
            "no name that could be the events' source",
        ),
    ],
)
def test_what_cannot_be_read_ends_it_with_2_before_anything_is_sent(
    arguments: list[str], stdin: bytes, said: str, address: str
) -> None:
    code, output, errors = meterline_send(
        *arguments, stdin=stdin, METERLINE_BOOTSTRAP_SERVERS=address
    )
    assert (code, output) == (2, "")
    assert said in errors
    assert "Remedy: " in errors
    assert "Traceback" not in errors


def test_a_standard_input_that_is_closed_is_said() -> None:
    closed = ["sh", "-c", 'exec "$@" <&-', "sh", *command("-")]
    ended = subprocess.run(closed, capture_output=True, cwd=ROOT, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "Standard input is closed.\nRemedy: " in ended.stderr


def test_an_event_larger_than_kafka_takes_is_counted_and_the_rest_is_sent(address: str) -> None:
    arrivals = Arrivals(address)
    stdin = b"\n".join([event(1), event(2, data="x" * 17_000_000), event(3)])
    code, output, errors = meterline_send("-", stdin=stdin, METERLINE_BOOTSTRAP_SERVERS=address)
    assert code == 1
    assert "Sent 2 events in" in output
    assert "1 were not delivered: The event cannot be sent" in errors
    assert sorted(record.value or b"" for record in arrivals.records()) == [event(1), event(3)]


def test_an_arrival_that_is_too_old_for_its_topic_is_said_to_be(bare_kafka: str) -> None:
    create_topics({"bootstrap.servers": bare_kafka}, [EVENTS])
    code, output, errors = meterline_send(
        "-",
        stdin=event(1, receivedat="2020-11-20T09:30:00Z"),
        METERLINE_BOOTSTRAP_SERVERS=bare_kafka,
    )
    assert (code, output.split(" in ")[0]) == (1, "Sent 0 events")
    assert "1 were not delivered: an arrival time among them is older" in errors
    assert "Remedy: Correct their arrival times (receivedat" in errors


def test_a_broker_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    file = tmp_path / "events.ndjson"
    file.write_bytes(event(1))
    code, output, errors = meterline_send(file, "--bootstrap-servers", "127.0.0.1:1")
    assert (code, output) == (75, ""), "a try again may succeed"
    assert "Kafka does not answer on 127.0.0.1:1" in errors
    assert "Remedy: Check METERLINE_BOOTSTRAP_SERVERS" in errors
    assert "Traceback" not in errors


def test_a_broker_without_the_topics_is_said_at_once(kafka: str) -> None:
    code, output, errors = meterline_send("-", stdin=event(1), METERLINE_BOOTSTRAP_SERVERS=kafka)
    assert (code, output) == (2, "")
    assert f"has no topic {EVENTS.name}" in errors
    assert "meterline topics" in errors


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interruption_flushes_and_says_how_far_it_came(
    ending: signal.Signals, address: str
) -> None:
    arrivals = Arrivals(address)
    with subprocess.Popen(
        command("-", "--bootstrap-servers", address),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdin.write(b"".join(event(number) + b"\n" for number in range(100)))
        process.stdin.flush()
        while arrivals.count() < 100:
            assert process.poll() is None
        process.send_signal(ending)
        assert process.wait(60) == 130
        assert process.stdout.read().decode().startswith("Interrupted. Sent 100 events in")
        assert b"Traceback" not in process.stderr.read()


def test_lines_that_a_dying_broker_did_not_take_are_counted_and_nothing_hangs() -> None:
    with LocalKafka() as broker:
        create_topics({"bootstrap.servers": broker.address}, keep_for_ever=True)
        progress: list[int] = []
        producer = Producer(broker.address, timeout_seconds=10, kafka={"log_level": "2"})

        def lines() -> Iterator[Line]:
            yield from (Line(b"cus_1", event(number), None) for number in range(10))
            producer.flush()
            broker.kill()
            yield from (Line(b"cus_1", event(number), None) for number in range(10, 15))

        sent = send_lines(producer, lines(), progress.append)
        producer.close()
        assert (sent.lines, sent.failed, sent.delivered) == (15, 5, 10)
        assert sent.why
        assert progress == list(range(1, 16))
