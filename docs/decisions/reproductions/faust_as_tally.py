"""If tally were a Faust agent: events counted in a table, on a real broker.

    python docs/decisions/reproductions/faust_as_tally.py [--quick]

1. speed: a plain client, a Faust agent, and a Faust agent with a table count the same events;
2. lost: the broker refuses changelog records for a while (here by a size limit; an ACL would do
   the same); Faust logs it, commits the offsets all the same, and what was counted meanwhile is
   gone when the process ends;
3. doubled: a process killed between its changelog and its offset commit counts again.

Ends with 1 if a result is not what docs/decisions/0001 says, so that the record stays true.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import faust
import msgspec
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from schemas.topics import Topic
from streams.local_kafka import LocalKafka
from streams.read import read_to_end
from streams.topics import create_topics

WAIT_SECONDS_MAX = 60.0
#: How often an experiment is begun anew when what it waits for does not come: on a busy machine
#: Faust may be too slow to start, or may commit just before it is killed.
ATTEMPTS = 3
EVENTS = 100
#: For the speed, by who counts them.
THOROUGH = {"plain": 400_000, "agent": 50_000, "table": 20_000}
QUICK = {"plain": 40_000, "agent": 1_000, "table": 500}
#: The least that docs/decisions/0001 claims, far below what any machine shows.
PLAIN_PER_AGENT_MIN = 10


class Data(msgspec.Struct):
    tokens: int


class Event(msgspec.Struct):
    subject: str
    data: Data


decode = msgspec.json.Decoder(Event).decode


def event(number: int) -> bytes:
    """A CloudEvent of 185 bytes."""
    return (
        b'{"specversion":"1.0","id":"request-%010d","source":"/gateway/eu-1","type":"llm.request",'
        b'"subject":"customer-%06d","time":"2026-11-20T09:30:00Z","data":{"tokens":1,"model":"m"}}'
    ) % (number, number % 10_000)


class Stopwatch:
    """Wall-clock and CPU seconds from the first event to the last of `events`; prints both."""

    def __init__(self, events: int) -> None:
        self._left = events
        self._events = events
        self._begin: tuple[float, float] | None = None

    def count(self) -> None:
        if self._begin is None:
            self._begin = time.perf_counter(), time.process_time()
        self._left -= 1
        if self._left == 0:
            wall = time.perf_counter() - self._begin[0]
            cpu = time.process_time() - self._begin[1]
            print(json.dumps({"wall": self._events / wall, "cpu": self._events / cpu}), flush=True)


def count_plainly(address: str, name: str, events: int) -> None:
    consumer = Consumer({"bootstrap.servers": address, "group.id": "plain"})
    consumer.assign([TopicPartition(f"{name}.events", 0, 0)])
    totals: dict[str, int] = {}
    watch = Stopwatch(events)
    while events > 0:
        for message in consumer.consume(min(events, 2_000), 1.0):
            counted = decode(message.value() or b"")
            totals[counted.subject] = totals.get(counted.subject, 0) + counted.data.tokens
            watch.count()
            events -= 1
    consumer.close()


async def count_with_faust(
    address: str, name: str, events: int, guarantee: str, *, table: bool
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        app = faust.App(
            name,
            broker=f"kafka://{address}",
            broker_session_timeout=1.0,
            broker_heartbeat_interval=0.3,
            # Long enough to be killed before the first commit, or short enough to see it.
            broker_commit_interval=30.0 if name.startswith("doubled") else 0.5,
            processing_guarantee=guarantee,
            topic_allow_declare=False,
            topic_disable_leader=True,
            web_enabled=False,
            autodiscover=False,
            datadir=scratch,
        )
        totals = app.Table("totals", default=int, partitions=1) if table else defaultdict(int)
        watch = Stopwatch(events)

        async def count(stream):  # type: ignore[no-untyped-def]
            async for value in stream:
                counted = decode(value)
                totals[counted.subject] += counted.data.tokens
                watch.count()

        app.agent(app.topic(f"{name}.events", key_serializer="raw", value_serializer="raw"))(count)
        await app.start()
        await app.wait_until_stopped()


class Broker:
    """What the experiments do on the broker."""

    def __init__(self, address: str) -> None:
        self._address = address
        # Quiet: when all is done the broker stops before its clients do.
        self._kafka = {"bootstrap.servers": address, "log_level": "2"}
        self._admin = AdminClient({**self._kafka})
        self._producer = Producer(self._kafka)

    def create(self, name: str) -> None:
        topics = [
            Topic(f"{name}.events", 1, -1, "Input."),
            Topic(f"{name}-totals-changelog", 1, -1, "The table's.", compacted=True),
        ]
        create_topics(self._kafka, topics)

    def send(self, name: str, numbers: range) -> None:
        for number in numbers:
            self._producer.produce(f"{name}.events", event(number), partition=0)
            self._producer.poll(0)
        assert self._producer.flush(WAIT_SECONDS_MAX) == 0

    def committed(self, name: str) -> int:
        """The offset from which the app would go on."""
        asked = ConsumerGroupTopicPartitions(name, [TopicPartition(f"{name}.events", 0)])
        (answer,) = self._admin.list_consumer_group_offsets([asked]).values()
        return max(0, int(answer.result().topic_partitions[0].offset))

    def total(self, name: str) -> int:
        """What the table holds after a restart: the sum of its changelog's last values."""
        changelog = read_to_end(self._kafka, f"{name}-totals-changelog", 0)
        return sum({record.key: int(record.value or b"0") for record in changelog}.values())

    def limit_changelog(self, name: str, bytes_max: int) -> None:
        entry = ConfigEntry(
            "max.message.bytes", str(bytes_max), incremental_operation=AlterConfigOpType.SET
        )
        topic = ConfigResource(
            ResourceType.TOPIC, f"{name}-totals-changelog", incremental_configs=[entry]
        )
        for done in self._admin.incremental_alter_configs([topic]).values():
            done.result()
        time.sleep(1)

    @contextmanager
    def process(self, role: str, name: str, *options: str) -> Iterator[subprocess.Popen[str]]:
        """A counting process, killed at the end."""
        command = [sys.executable, __file__, "--role", role, "--name", name, *options]
        with subprocess.Popen(
            [*command, "--address", self._address], stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                yield process
            finally:
                process.kill()


class InVain(Exception):
    """What an experiment waited for did not come."""


def wait_until(condition: Callable[[], bool], what: str) -> None:
    give_up = time.monotonic() + WAIT_SECONDS_MAX
    while not condition():
        if time.monotonic() > give_up:
            raise InVain(f"in vain waited until {what}")
        time.sleep(0.1)


def attempt(experiment: Callable[[str], bool], name: str) -> bool:
    """What the experiment shows, which gets names for topics of its own each time it is begun."""
    for number in range(ATTEMPTS):
        try:
            return experiment(f"{name}_{number}")
        except InVain as reason:
            print(f"{name}: {reason}")
    return False


def measure_speed(broker: Broker, events: dict[str, int]) -> bool:
    broker.create("speed")
    broker.send("speed", range(max(events.values())))
    rates: dict[str, dict[str, float]] = {}
    for role, count in events.items():
        with broker.process(role, "speed", "--events", str(count)) as process:
            assert process.stdout is not None
            rates[role] = json.loads(process.stdout.readline())
        print(f"speed    {role:6} {rates[role]['cpu']:>9,.0f} events per CPU second", end="")
        print(f" {rates[role]['wall']:>9,.0f} per second")
    plain, agent, table = (rates[role]["cpu"] for role in ("plain", "agent", "table"))
    print(f"speed    plain / agent = {plain / agent:.0f}, agent / table = {agent / table:.1f}")
    return plain / agent >= PLAIN_PER_AGENT_MIN


def lose_events(broker: Broker, guarantee: str, name: str) -> bool:
    broker.create(name)
    broker.send(name, range(EVENTS))
    with broker.process("table", name, "--guarantee", guarantee):
        wait_until(lambda: broker.committed(name) == EVENTS, "the first events are committed")
        before = broker.total(name)
        broker.limit_changelog(name, 1)
        broker.send(name, range(EVENTS, 2 * EVENTS))
        wait_until(lambda: broker.committed(name) == 2 * EVENTS, "the others are committed")
    broker.limit_changelog(name, 1024 * 1024)
    after = broker.total(name)
    print(
        f"lost     {guarantee}: sent {2 * EVENTS}, offset committed {broker.committed(name)}, "
        f"total after a restart {after}"
    )
    return before == EVENTS and after < 2 * EVENTS


def double_events(broker: Broker, name: str) -> bool:
    broker.create(name)
    broker.send(name, range(EVENTS))
    with broker.process("table", name):
        wait_until(lambda: broker.total(name) == EVENTS, "the events are counted")
        committed = broker.committed(name)
    with broker.process("table", name):
        wait_until(lambda: broker.total(name) != EVENTS, "they are counted again")
        time.sleep(1)
    after = broker.total(name)
    print(
        f"doubled  at_least_once: sent {EVENTS}, killed at committed offset {committed}, "
        f"total after a restart {after}"
    )
    return after > EVENTS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer events for the speed")
    parser.add_argument("--role", choices=("plain", "agent", "table"), help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    parser.add_argument("--name", help=argparse.SUPPRESS)
    parser.add_argument("--events", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--guarantee", default="at_least_once", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role == "plain":
        count_plainly(options.address, options.name, options.events)
        return 0
    if options.role:
        logging.disable(logging.ERROR)
        asyncio.run(
            count_with_faust(
                options.address,
                options.name,
                options.events,
                options.guarantee,
                table=options.role == "table",
            )
        )
        return 0
    events = QUICK if options.quick else THOROUGH
    with LocalKafka() as kafka:
        broker = Broker(kafka.address)
        results = (
            measure_speed(broker, events),
            *(
                attempt(partial(lose_events, broker, guarantee), f"lost_{guarantee}")
                for guarantee in ("at_least_once", "exactly_once")
            ),
            attempt(partial(double_events, broker), "doubled"),
        )
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
