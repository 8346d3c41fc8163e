"""Processes of the command line under steady events, and how soon each shard counts again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self

from confluent_kafka import (
    OFFSET_END,
    Consumer,
    ConsumerGroupState,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from benchmarks.background import Background
from schemas import topics
from schemas.definitions import Definitions
from streams.producer import Producer
from streams.read import reader
from streams.stage import group_of

_TICK_SECONDS = 0.05
_WAIT_SECONDS_MAX = 240.0
#: Every shard gets events this often at least, so a longer silence is a real one.
SILENCE_SECONDS = 1.0


class Feed(Background):
    """Sends events at `per_second` for random customers; a context manager."""

    def __init__(self, address: str, per_second: int, customers: int) -> None:
        super().__init__("feed", self._work)
        self._producer = Producer(address, kafka={"log_level": "2"})
        self._per_tick = max(1, round(per_second * _TICK_SECONDS))
        self._customers = customers

    def _work(self) -> None:
        random = Random(0)
        while not self._end.wait(_TICK_SECONDS):
            now = datetime.now(UTC).isoformat()
            for _ in range(self._per_tick):
                name = f"cus_{random.randrange(self._customers):05d}"
                data = f'{{"tokens":{random.randrange(1, 4_000)},"model":"small"}}'
                event = (
                    f'{{"specversion":"1.0","id":"{random.getrandbits(64):016x}",'
                    f'"source":"/gateway/eu-1","type":"llm.request","subject":"{name}",'
                    f'"time":"{now}","data":{data}}}'
                )
                self._producer.send_raw(event.encode(), key=name.encode())

    def _close(self) -> None:
        self._producer.close()


class Watch(Background):
    """When decisions of each shard became readable, on the monotonic clock; a context manager."""

    def __init__(self, kafka: Mapping[str, str], shards: int) -> None:
        super().__init__("watch", self._work)
        self._consumer: Consumer = reader(kafka)
        self._consumer.assign(
            [TopicPartition(topics.DECISIONS.name, shard, OFFSET_END) for shard in range(shards)]
        )
        self._seen: list[list[float]] = [[] for _ in range(shards)]

    def wait_for_all(self, since: float) -> None:
        """Wait until every shard has a decision later than `since`.

        Raises:
            TimeoutError: one has none for minutes.
        """
        give_up = time.monotonic() + _WAIT_SECONDS_MAX
        while not all(seen and seen[-1] > since for seen in self._seen):
            if time.monotonic() > give_up:
                silent = [shard for shard, seen in enumerate(self._seen) if not seen]
                raise TimeoutError(f"no decisions any more, of shards {silent or 'some'}")
            time.sleep(_TICK_SECONDS)

    def seconds_until_all_count(self, killed_at: float) -> float:
        """From `killed_at` until the last shard counted again: wait for it, and look back."""
        self.wait_for_all(killed_at + SILENCE_SECONDS)
        self.wait_for_all(time.monotonic() + SILENCE_SECONDS)
        return max(end_of_longest_silence(seen, killed_at) for seen in self._seen) - killed_at

    def _work(self) -> None:
        while not self._end.is_set():
            for message in self._consumer.consume(1_000, _TICK_SECONDS / 5):
                error = message.error()
                if error is None:
                    self._seen[message.partition() or 0].append(time.monotonic())
                elif error.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(error)

    def _close(self) -> None:
        self._consumer.close()


def end_of_longest_silence(seen: list[float], since: float) -> float:
    """Of those that end later than `since`."""
    times = list(seen)
    return max((later - earlier, later) for earlier, later in pairwise(times) if later > since)[1]


def settings_for(address: str, definitions: Definitions, directory: Path) -> dict[str, str]:
    """Settings of processes on one broker; what they need of files is in `directory`."""
    config = directory / "meterline.yaml"
    config.write_text(json.dumps(definitions.model_dump(mode="json", exclude_none=True)))
    return {
        "METERLINE_BOOTSTRAP_SERVERS": address,
        "METERLINE_CONFIG": str(config),
        "METERLINE_STATE_DIRECTORY": str(directory / "states"),
    }


class Processes:
    """`meterline run STAGE`, by stage and instance; a context manager that ends them."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self._environment = dict(os.environ) | dict(environment)
        self._environment |= {
            "METERLINE_STOP_WITH_STDIN": "true",
            # As installed in production: all is compiled once, not at each start.
            "PYTHONDONTWRITEBYTECODE": "",
        }
        self._log = log
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._admin = AdminClient(
            {"bootstrap.servers": environment["METERLINE_BOOTSTRAP_SERVERS"], "log_level": "2"}
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for instance in list(self._running):
            self.kill(instance)

    def start(self, stage: str, instance: str) -> int:
        """Start one; its process id."""
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "meterline", "run", stage, "--instance", instance],
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        self._running[instance] = process
        return process.pid

    def kill(self, instance: str) -> float:
        """kill -9; when."""
        process = self._running.pop(instance)
        process.kill()
        killed_at = time.monotonic()
        process.communicate()
        return killed_at

    def terminate(self, instance: str) -> float:
        """SIGTERM, and wait for its end; when it was sent."""
        process = self._running.pop(instance)
        process.terminate()
        asked_at = time.monotonic()
        process.communicate()
        return asked_at

    def wait_for_members(self, stage: str, count: int) -> None:
        """Wait until the stage's group is at rest and each of `count` members has shards.

        Raises:
            TimeoutError: that does not come.
        """
        give_up = time.monotonic() + _WAIT_SECONDS_MAX
        group = group_of(stage)
        while time.monotonic() < give_up:
            try:
                described = self._admin.describe_consumer_groups([group])[group].result(30)
            except KafkaException:
                continue
            busy = [m for m in described.members if m.assignment.topic_partitions]
            if described.state is ConsumerGroupState.STABLE and len(busy) == count:
                return
            time.sleep(_TICK_SECONDS)
        raise TimeoutError(f"{group} does not come to rest; see {self._log}")


def memory_bytes(pid: int) -> int:
    """What a process holds in memory now."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"process {pid} has no memory")
