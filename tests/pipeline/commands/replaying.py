"""`meterline replay` as a person runs it, and what it looks at, on brokers of its tests' own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

import streams.read
import streams.stage
from pipeline.generate import Shares, generate
from pipeline.ingest_file import read_ndjson
from schemas import topics
from schemas.definitions import Definitions
from streams.backlog import backlog
from streams.confluent import ConfluentClients
from streams.intake import IntakeStage
from streams.local_kafka import LocalKafka
from streams.producer import Producer
from streams.stage import Stage, group_of
from streams.tally import TallyStage
from streams.topics import create_topics
from streams.transact import Transactor
from tests.faults.deployment import DEFINITIONS
from tests.pipeline.usage_log import utc
from tests.streams.on_kafka import WAIT_SECONDS_MAX, described, running, wait_until

ROOT = Path(__file__).parents[3]
SHARDS = 4
EVENTS = 1_500
SHARES = Shares(duplicate=0.05, conflict=0.02, late=0.02, delayed=0.02, unknown=0.02, broken=0.02)


def all_lines() -> list[bytes]:
    """Events with everything that producers do wrong."""
    end = utc(2026, 11, 20, 12)
    return list(generate(EVENTS, 20, 7, end, shares=SHARES))


def replay(address: str, *options: str) -> tuple[int, str, str]:
    """Runs the command: exit code, output, what it says to the person in front of it."""
    ended = subprocess.run(
        [sys.executable, "-m", "meterline", "replay", *options, "--bootstrap-servers", address],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=dict(os.environ),
        timeout=120,
    )
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended.returncode, ended.stdout, ended.stderr


def intake(document: dict[str, Any] = DEFINITIONS) -> tuple[Stage, int]:
    """The stage, and how many records it takes at once."""
    return IntakeStage(Definitions.model_validate(document), SHARDS), 100


def tally(address: str) -> tuple[Stage, int]:
    """The stage, and how many records it takes at once."""
    clients = ConfluentClients({"bootstrap.servers": address})
    return TallyStage(SHARDS, partial(clients.read_to_end, topics.METERED.name)), 3


@contextmanager
def stages(address: str, *some: tuple[Stage, int]) -> Iterator[None]:
    """Stages in threads, with batches so small that there are many transactions.

    By default intake and tally.
    """
    with ExitStack() as stack:
        # Or their group would keep their places for ten seconds.
        short = stack.enter_context(pytest.MonkeyPatch.context())
        short.setattr(streams.stage, "SESSION_TIMEOUT_MS", 1_000)
        for stage, batch_max in some or (intake(), tally(address)):
            stop = threading.Event()
            stack.enter_context(running(transactor(address, stage, batch_max, stop), stop))
        yield


def transactor(address: str, stage: Stage, batch_max: int, stop: threading.Event) -> Transactor:
    return Transactor(
        stage,
        ConfluentClients({"bootstrap.servers": address}),
        instance="replayed",
        stop=stop,
        linger_ms=2,
        batch_max=batch_max,
    )


def send(address: str, lines: list[bytes]) -> None:
    producer = Producer(address)
    for line in read_ndjson(lines):
        producer.send_raw(line.value, key=line.key, timestamp_ms=line.timestamp_ms)
    producer.close()


def is_done(address: str) -> bool:
    return is_taken_in(address) and not backlog(
        {"bootstrap.servers": address}, "tally", [topics.METERED.name]
    )


def is_taken_in(address: str) -> bool:
    return not backlog({"bootstrap.servers": address}, "intake", [topics.EVENTS.name])


@contextmanager
def broker_with_topics() -> Iterator[str]:
    """Its address; there are four shards."""
    with LocalKafka() as broker:
        catalogue = topics.sized(shards=SHARDS, event_partitions=3)
        create_topics({"bootstrap.servers": broker.address}, catalogue, keep_for_ever=True)
        yield broker.address


@contextmanager
def everything_counted(lines: list[bytes]) -> Iterator[str]:
    """The address of a broker on which all events are counted."""
    with broker_with_topics() as address:
        send(address, lines)
        with stages(address):
            wait_until(lambda: is_done(address), "everything is counted")
        yield address


def forget_before(address: str, topic: topics.Topic, partition: int, offset: int) -> None:
    """Delete the beginning of a partition, as retention does."""
    admin = AdminClient({"bootstrap.servers": address})
    place = TopicPartition(topic.name, partition, offset)
    for deleted in admin.delete_records([place]).values():
        deleted.result(WAIT_SECONDS_MAX)


def forget_positions(address: str) -> None:
    """What Kafka does when no tally has run for a week."""
    wait_until(lambda: is_empty(address), "tally's group is empty")
    admin = AdminClient({"bootstrap.servers": address})
    for deleted in admin.delete_consumer_groups([group_of("tally")]).values():
        with suppress(KafkaException):  # There is none any more.
            deleted.result(WAIT_SECONDS_MAX)


def confirm(address: str, topic: topics.Topic, partition: int, offset: int) -> None:
    """Say in the name of tally that it has done everything before `offset`."""
    wait_until(lambda: is_empty(address), "tally's group is empty")
    consumer = Consumer({"bootstrap.servers": address, "group.id": group_of("tally")})
    place = TopicPartition(topic.name, partition, offset)
    consumer.commit(offsets=[place], asynchronous=False)
    consumer.close()


def is_empty(address: str) -> bool:
    """Whether no process is a member of tally's group any more."""
    admin = AdminClient({"bootstrap.servers": address})
    return not described(admin, "tally").members


def end_of(address: str, topic: topics.Topic, partition: int) -> int:
    return streams.read.end_of({"bootstrap.servers": address}, topic.name, partition)
