"""A broker with dead letters, intake and tally on it as processes, and `meterline rejected`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from confluent_kafka import Producer

from pipeline.open_frame import open_frame
from pipeline.record import Headers, Record
from schemas import topics
from schemas.decisions import Status
from schemas.frame import Kind
from schemas.rejection import HEADER_OFFSET, HEADER_PARTITION, HEADER_REASON, HEADER_TOPIC
from schemas.total import read_totals
from streams.backlog import backlog
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

    def send(
        self,
        *originals: Original,
        timestamp_ms: int = 0,
        to: str = "usage.events",
        kafka: Mapping[str, str] | None = None,
    ) -> None:
        producer = Producer({**self._kafka, **(kafka or {})})
        for each in originals:
            headers: Any = list(each.headers)
            producer.produce(
                to, value=each.value, key=each.key, headers=headers, timestamp=timestamp_ms
            )
        assert producer.flush(60) == 0

    def work(self, value_path: str) -> None:
        """Run intake with definitions of this value, and tally, until all is done."""
        with self._running(value_path):
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
    def _running(self, value_path: str) -> Iterator[None]:
        config = self._directory / "meterline.yaml"
        meter = {"slug": "tokens", "event_type": "llm", "aggregation": "sum", "value": value_path}
        meter |= {"period": "day", "grace_hours": 0}  # type: ignore[dict-item]
        plans = {"plans": [{"slug": "free"}], "default_plan": "free"}
        config.write_text(json.dumps({"meters": [meter], **plans}))
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "run", "intake", "tally", "--config", str(config)],
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


@contextmanager
def rejecting(directory: Path) -> Iterator[Pipeline]:
    """A pipeline with dead letters of several customers, all rejected under wrong definitions."""
    with LocalKafka() as broker:
        pipeline = Pipeline(broker.address, directory)
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
