"""The real clients: confluent-kafka behind the protocols of `streams.clients`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from pipeline.record import Record
from streams import confluent_calls as calls
from streams.clients import Place, count_of
from streams.cluster import ask_for_topics
from streams.confluent_consumer import ConfluentConsumer
from streams.confluent_writers import ConfluentTransactions, ConfluentWriter
from streams.read import end_of, next_records, read_all, read_to_end
from streams.stage import member_of, membership


class RealClock:
    """This machine's time."""

    def monotonic(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return time.time_ns() // 1_000_000

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


class ConfluentClients:
    """Makes clients of one Kafka; `kafka` is a librdkafka configuration."""

    clock = RealClock()

    def __init__(self, kafka: Mapping[str, str]) -> None:
        self._kafka = dict(kafka)

    def consumer(self, stage: str, instance: str) -> ConfluentConsumer:
        """A member of the stage's group."""
        return ConfluentConsumer(self._kafka | membership(stage, instance))

    def transactional_writer(self, stage: str, instance: str) -> ConfluentTransactions:
        """A producer of this instance's transactional id."""
        member = member_of(stage, instance)
        return ConfluentTransactions(self._kafka, member)

    def writer(self, stage: str, instance: str) -> ConfluentWriter:
        """A producer without transactions."""
        return ConfluentWriter(self._kafka, member_of(stage, instance))

    def partition_counts(self) -> dict[str, int]:
        """The topics that exist, and how many partitions each has."""
        topics = ask_for_topics(self._kafka, calls.ANSWER_SECONDS).topics
        return {name: len(topic.partitions) for name, topic in topics.items()}

    def read_to_end(self, topic: str, partition: int, begin: int) -> Iterator[Record]:
        """Committed records from offset `begin` to where the partition ends now."""
        return read_to_end(self._kafka, topic, partition, begin, whole=True)

    def end_of(self, topic: str, partition: int) -> int:
        """The offset behind the last committed record of a partition."""
        return end_of(self._kafka, topic, partition)

    def next_records(self, positions: Mapping[Place, int | None]) -> dict[Place, int]:
        """The offset of the first committed record from each position on."""
        return next_records(self._kafka, positions)

    def read_all(self, topic: str) -> Iterator[Record]:
        """Committed records of all partitions."""
        return read_all(self._kafka, topic, count_of(topic, self.partition_counts()))

    def firsts(self, topic: str) -> Iterator[Record]:
        """The first committed record of each partition that has one."""
        count = count_of(topic, self.partition_counts())
        return read_all(self._kafka, topic, count, only_firsts=True)
