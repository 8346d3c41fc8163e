"""Runs one contender alone, from its start until its totals are exactly right, and measures it."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from benchmarks.contender import Command, Contender, LeftOut, Place, TotalKey
from benchmarks.usage import Usage
from benchmarks.workload import Sum, Workload
from schemas import topics
from schemas.topics import Topic
from streams.local_kafka import LocalKafka
from streams.topics import create_topics

#: So many bytes from the broker mean that events flow: what it says before is far less.
_FIRST_BYTES = 2_000_000

#: CPU time is counted in these.
_TICK_SECONDS = 0.01

_STALL_SECONDS_MAX = 120.0
_STOP_SECONDS_MAX = 15.0
_LOG_LINES = 12
_NOTHING = Sum(0, 0)

#: Becomes the program, and leaves a watchdog behind that kills it and what it started when our end
#: of the pipe on its standard input closes, however this process ends.
_GUARDED = """\
exec 3<&0
{ read -r _ || kill -9 -$$; } <&3 >/dev/null 2>&1 &
exec "$@" 3<&- </dev/null
"""


@dataclass(frozen=True)
class Result:
    """One contender's run; `problem` says in words what kept it from a result.

    CPU seconds are of all its processes since they began, start-up and warm-up included. Wall
    seconds are from the first two megabytes that it fetched until its totals, all of them right,
    were readable for a `read_committed` consumer; `start_seconds` is what came before, and
    `start_cpu_seconds` what it used of the CPU there (both 0 but on Linux, which alone tells what
    the broker has sent). The other CPU times are of its whole run:
    of the broker, of this process, which checks the totals, and of whatever else ran.
    """

    name: str
    events: int
    problem: str = ""
    totals: int = 0
    cpu_seconds: float = 0
    wall_seconds: float = 0
    start_seconds: float = 0
    start_cpu_seconds: float = 0
    broker_cpu_seconds: float = 0
    checker_cpu_seconds: float = 0
    others_cpu_seconds: float = 0
    memory_bytes_max: int = 0
    disk_bytes: int = 0
    changelog_bytes: int = 0

    @property
    def per_cpu_second(self) -> float:
        """Events that one core does if nothing else holds it up; 0 without a result."""
        return self.events / self.cpu_seconds if self.cpu_seconds else 0

    @property
    def per_cpu_second_running(self) -> float:
        """The same without what its start took; 0 without a result."""
        running = max(self.cpu_seconds - self.start_cpu_seconds, _TICK_SECONDS)
        return self.events / running if self.cpu_seconds else 0

    @property
    def per_wall_second(self) -> float:
        """Events a second beside the broker on this machine; 0 without a result."""
        return self.events / self.wall_seconds if self.wall_seconds else 0


class Failed(Exception):
    """The contender ended, stood still or counted wrongly."""


def run_alone(
    contender: Contender,
    broker: LocalKafka,
    workload: Workload,
    input_topic: str,
    expected: Mapping[TotalKey, Sum],
) -> Result:
    """Run it on what is on `input_topic`; whatever goes wrong is in the result."""
    result = Result(contender.name, workload.events)
    try:
        start = contender.prepare()
    except (LeftOut, OSError) as reason:
        return replace(result, problem=f"left out: {reason}")
    kafka = {"bootstrap.servers": broker.address}
    create_topics(kafka, _topics_of(contender), keep_for_ever=True)
    with tempfile.TemporaryDirectory(prefix="contender-", ignore_cleanup_errors=True) as directory:
        place = Place(broker.address, input_topic, workload.events, Path(directory))
        place.state.mkdir()
        log = place.directory / "contender.log"
        try:
            return _measure(contender, start(place), broker, place, result, expected, log)
        except (Failed, KafkaException, OSError, psutil.Error) as fault:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
            return replace(result, problem=f"failed: {fault}\n{tail}".rstrip())


def _measure(
    contender: Contender,
    commands: Sequence[Command],
    broker: LocalKafka,
    place: Place,
    result: Result,
    expected: Mapping[TotalKey, Sum],
    log: Path,
) -> Result:
    progress = _Progress(contender, place.address, expected, log)
    first_bytes = min(_FIRST_BYTES, topic_bytes(broker, place.input_topic) // 10)
    broker_process = psutil.Process(broker.pid)
    sent_before = _sent_bytes(broker_process)
    busy = _busy_seconds()
    broker_cpu = _own_cpu_seconds(broker_process)
    checker_cpu = time.process_time()
    started = time.perf_counter()
    first = start_cpu = 0.0
    with _running(commands, log) as processes, Usage([one.pid for one in processes]) as usage:
        while not progress.complete():
            if not first and _sent_bytes(broker_process) - sent_before > first_bytes:
                first, start_cpu = time.perf_counter(), usage.cpu_seconds()
            for process in processes:
                if process.poll() is not None and not progress.complete():
                    raise Failed(f"a process ended with {process.returncode}")
        ended = time.perf_counter()
        cpu = usage.cpu_seconds()
        broker_cpu = _own_cpu_seconds(broker_process) - broker_cpu
        checker_cpu = time.process_time() - checker_cpu
        busy = _busy_seconds() - busy
        return replace(
            result,
            totals=len(expected) if contender.output_topic else 0,
            cpu_seconds=cpu,
            wall_seconds=ended - (first or started),
            start_seconds=first - started if first else 0,
            start_cpu_seconds=start_cpu,
            broker_cpu_seconds=broker_cpu,
            checker_cpu_seconds=checker_cpu,
            others_cpu_seconds=max(busy - cpu - broker_cpu - checker_cpu, 0),
            memory_bytes_max=usage.memory_bytes_max,
            disk_bytes=_folder_bytes(place.state),
            changelog_bytes=sum(
                topic_bytes(broker, name)
                for name in _topics(broker)
                if contender.is_changelog(name)
            ),
        )


class _Progress:
    """Follows a contender's totals, and knows when they are right."""

    def __init__(
        self, contender: Contender, address: str, expected: Mapping[TotalKey, Sum], log: Path
    ) -> None:
        self._contender = contender
        self._expected = expected
        self._events = sum(total.events for total in expected.values())
        self._log = log
        self._seen: dict[TotalKey, Sum] = {}
        self._counted = 0
        self._changed = time.monotonic()
        self._consumer = None
        if contender.output_topic is not None:
            self._consumer = _reader(address, contender.output_topic)

    def complete(self) -> bool:
        """Whether all totals are right; waits for a moment while they are not.

        Raises:
            Failed: nothing has come for minutes, or something was counted that is not there.
        """
        if self._consumer is None:
            time.sleep(0.02)
            if self._log.exists() and b"done" in self._log.read_bytes():
                return True
        else:
            messages = self._consumer.consume(10_000, 0.05)
            for message in messages:
                if message.error() is not None:
                    raise KafkaException(message.error())
                if value := message.value():
                    self._take(value)
            if self._counted == self._events and self._seen == self._expected:
                return True
        if time.monotonic() - self._changed > _STALL_SECONDS_MAX:
            raise Failed(f"nothing new for {_STALL_SECONDS_MAX:.0f} s; {self._difference()}")
        return False

    def _take(self, record: bytes) -> None:
        for key, total in self._contender.totals(record):
            right = self._expected.get(key, _NOTHING)
            if total.events > right.events:
                raise Failed(f"more was counted than came, for {key} {total} instead of {right}")
            before = self._seen.get(key, _NOTHING)
            if total != before:
                self._seen[key] = total
                self._counted += total.events - before.events
                self._changed = time.monotonic()

    def _difference(self) -> str:
        wrong = sorted(key for key, total in self._expected.items() if self._seen.get(key) != total)
        example = ""
        if wrong:
            one = wrong[0]
            example = f", such as {one}: {self._seen.get(one)} instead of {self._expected[one]}"
        return (
            f"{self._counted:,} of {self._events:,} events counted, {len(wrong):,} of "
            f"{len(self._expected):,} totals wrong{example}"
        )


def _topics_of(contender: Contender) -> list[Topic]:
    """What it needs to be there, with as many partitions as the input."""
    like = topics.EVENTS
    needed = [replace(like, name=name, compacted=True) for name in contender.compacted_topics]
    if contender.output_topic not in (None, topics.TOTALS.name):
        needed.append(replace(like, name=contender.output_topic))
    return needed


def topic_bytes(broker: LocalKafka, topic: str) -> int:
    """What the broker keeps of a topic on disk, without indexes."""
    logs = (broker.directory / "data").glob(f"{topic}-*/*.log")
    return sum(_size(log) for log in logs if log.parent.name.rpartition("-")[0] == topic)


def _topics(broker: LocalKafka) -> set[str]:
    folders = (broker.directory / "data").glob("*-*/")
    return {folder.name.rpartition("-")[0] for folder in folders}


def _folder_bytes(folder: Path) -> int:
    # Unlike `rglob`, which gives up when a folder goes while it is there.
    return sum(_size(Path(at, name)) for at, _, names in os.walk(folder) for name in names)


def _size(file: Path) -> int:
    # Compaction and checkpoints remove files while we look.
    with suppress(FileNotFoundError):
        if file.is_file():
            return file.stat().st_size
    return 0


def _sent_bytes(broker: psutil.Process) -> int:
    """What it has written, mostly to its clients; files count too, which is little at the start."""
    return int(broker.io_counters().write_chars) if psutil.LINUX else 0


def _busy_seconds() -> float:
    """What all processors together have not been idle, also for neighbours of a virtual machine."""
    times = psutil.cpu_times()
    # Those of guests are in user time already.
    idle = times.idle + getattr(times, "iowait", 0)
    guests = getattr(times, "guest", 0) + getattr(times, "guest_nice", 0)
    return float(sum(times) - idle - guests)


def _own_cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _reader(address: str, topic: str) -> Consumer:
    consumer = Consumer(
        {
            "bootstrap.servers": address,
            "group.id": "benchmark.reader",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 100,
            "fetch.message.max.bytes": 16 * 1024 * 1024,
            "log_level": 2,
        }
    )
    known = consumer.list_topics(topic, timeout=15).topics[topic]
    if known.error is not None:
        raise KafkaException(KafkaError(known.error.code()))
    consumer.assign([TopicPartition(topic, number, 0) for number in known.partitions])
    return consumer


@contextmanager
def _running(commands: Sequence[Command], log: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The processes, each with a group of its own, which ends with the block."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        with log.open("ab") as output:
            processes += [
                subprocess.Popen(
                    ["sh", "-c", _GUARDED, "sh", *command.line],
                    env=os.environ | dict(command.environment),
                    cwd=log.parent,
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
                for command in commands
            ]
        yield processes
    finally:
        for ending in (signal.SIGTERM, signal.SIGKILL):
            for process in processes:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, ending)
            for process in processes:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_STOP_SECONDS_MAX)
        for process in processes:
            process.communicate()
