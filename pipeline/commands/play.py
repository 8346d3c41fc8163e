"""Plays lines into a running pipeline and waits until every stage has done its part."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from confluent_kafka import KafkaException
from rich.progress import Progress, TaskID

from pipeline.commands.supervise import Supervisor
from pipeline.errors import Retry, Stop
from pipeline.ingest_file import Line
from schemas import topics
from streams.backlog import backlog
from streams.follow import Follower
from streams.producer import KEEPS_ARRIVALS, Producer

#: What a stage must have confirmed before the next one can be asked.
_READS = {
    "bill": [topics.TOTALS.name],
    "stripe": [topics.OUTBOX.name],
    "clickhouse": [
        topic.name
        for topic in (
            topics.METERED,
            topics.DECISIONS,
            topics.TOTALS,
            topics.ALERTS,
            topics.REJECTED,
            topics.DELIVERIES,
        )
    ],
}

_STALLED_SECONDS = 120.0

#: More than nothing: a backlog that could not be asked for.
_UNKNOWN = 1


class PlayClock:
    """The newest `receivedat` so far: an old trace is played as if it were then."""

    def __init__(self) -> None:
        self._newest_ms = 0

    def now_ms(self) -> int:
        """Milliseconds since 1970; the real time while no line has said when it arrived."""
        return self._newest_ms or time.time_ns() // 1_000_000

    def observed(self, lines: Iterable[Line]) -> Iterator[Line]:
        """The same lines; the clock follows them."""
        for line in lines:
            self._newest_ms = max(self._newest_ms, line.timestamp_ms or 0)
            yield line


class Play:
    """Sends, then waits until every stage has done its part; restarts what dies meanwhile."""

    def __init__(
        self,
        kafka: Mapping[str, str],
        stages: Supervisor,
        check_broker: Callable[[], None],
        progress: Progress,
    ) -> None:
        self._kafka = kafka
        self._stages = stages
        self._check_broker = check_broker
        self._progress = progress

    def send(self, lines: Iterable[Line], count: int) -> None:
        """Publish every line as it stands."""
        task = self._progress.add_task("sent to usage.events", total=count)
        quiet = KEEPS_ARRIVALS | {"log_level": "2"}
        with Producer(self._kafka["bootstrap.servers"], kafka=quiet) as producer:
            for number, line in enumerate(lines):
                producer.send_raw(line.value, key=line.key, timestamp_ms=line.timestamp_ms)
                if number % 500 == 0:
                    self._look_after(task, number)
            producer.flush()
        self._look_after(task, count)

    def follow(self, follower: Follower, count: int) -> None:
        """Wait until each event has an outcome."""
        task = self._progress.add_task("decided by intake and tally", total=count)
        moved_at, before = time.monotonic(), 0
        while (done := follower.read()) < count:
            self._look_after(task, done)
            if done > before:
                moved_at, before = time.monotonic(), done
            self._require_progress(moved_at, f"{done} of {count} events are decided")
        while not self._has_read_to_end(follower):
            self._look_after(task, done)
            self._require_progress(moved_at, "Kafka does not answer")
        self._look_after(task, done)

    def settle(self) -> None:
        """Wait until the sinks have confirmed everything, in the order in which they depend."""
        task = self._progress.add_task("billed, delivered, stored", total=len(_READS))
        for number, (stage, reads) in enumerate(_READS.items()):
            moved_at, before = time.monotonic(), -1
            while left := self._backlog(stage, reads):
                self._look_after(task, number)
                if left != before:
                    moved_at, before = time.monotonic(), left
                self._require_progress(moved_at, f"{stage} has {left} records to go")
                time.sleep(0.2)
        self._look_after(task, len(_READS))

    def _has_read_to_end(self, follower: Follower) -> bool:
        try:
            follower.read_to_end()
        except (KafkaException, Retry):
            return False  # the broker is away, and will be looked after
        return True

    def _backlog(self, stage: str, reads: Sequence[str]) -> int:
        try:
            return backlog(self._kafka, stage, reads)
        except (KafkaException, Retry):
            return _UNKNOWN  # the broker is away, and will be looked after

    def _look_after(self, task: TaskID, done: int) -> None:
        self._progress.update(task, completed=done)
        self._check_broker()
        self._stages.check()

    def _require_progress(self, moved_at: float, state: str) -> None:
        if time.monotonic() - moved_at > _STALLED_SECONDS:
            raise Stop(
                f"Nothing moved for {_STALLED_SECONDS:.0f} s: {state}.",
                remedy="Run `meterline doctor`, and try again on a machine that is less busy.",
            )
