"""What came of the events, as any outside reader sees it: decisions, rejections, totals, alerts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import numpy as np
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from pipeline.open_frame import open_frame
from pipeline.record import Record
from schemas import topics
from schemas.alert import Alert
from schemas.decisions import Status
from schemas.total import Total, read_totals
from streams.chain import Span, read_spans
from streams.clients import Place
from streams.cut import extents
from streams.read import partition_count, reader, record_of

_TOPICS = (topics.DECISIONS, topics.REJECTED, topics.TOTALS, topics.ALERTS)

#: The end of a partition, or a broker that is away for a while is no reason to give up reading.
_PASSING = (
    KafkaError._PARTITION_EOF,
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._RESOLVE,
)


class Follower:
    """Reads from the beginning, committed records only, and keeps what they add up to."""

    def __init__(self, kafka: Mapping[str, str]) -> None:
        self.ledger: Counter[str] = Counter()
        #: (customer, meter, period start, group) → the newest total.
        self.totals: dict[tuple[object, ...], Total] = {}
        self.alerts: list[Alert] = []
        self._kafka = kafka
        #: The offset of each partition's next record.
        self._next: dict[Place, int] = {
            (topic.name, partition): 0
            for topic in _TOPICS
            for partition in range(partition_count(kafka, topic.name))
        }
        self._consumer: Consumer = reader(kafka)
        self._consumer.assign([TopicPartition(*place, 0) for place in self._next])

    def read(self, wait_seconds: float = 0.2) -> int:
        """Take in what has come; how many events are decided or rejected by now."""
        for message in self._consumer.consume(1_000, wait_seconds):
            error = message.error()
            if error is None:
                self._take(record_of(message))
            elif not error.retriable() and error.code() not in _PASSING:
                raise KafkaException(error)
        return self.ledger.total()

    def read_to_end(self) -> None:
        """Take in everything that is there now.

        By another client: one that met a broker's death was seen to have read nothing of a
        partition when all that was written beside it had come.

        Raises:
            Retry: a transaction stays undecided, or Kafka does not answer.
            KafkaException: Kafka does not answer.
        """
        names = [topic.name for topic in _TOPICS]
        spans = {
            (topic, partition): Span(self._next[topic, partition], extent.end)
            for topic, found in extents(self._kafka, names).items()
            for partition, extent in enumerate(found)
        }
        for record in read_spans(self._kafka, spans):
            self._take(record)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._consumer.close()

    def _take(self, record: Record) -> None:
        place = (record.topic, record.partition)
        if record.offset < self._next[place]:
            return  # Both clients have read it.
        self._next[place] = record.offset + 1
        if record.topic == topics.REJECTED.name:
            self.ledger["rejected"] += 1
        elif record.topic == topics.ALERTS.name:
            self.alerts.append(Alert.model_validate_json(record.value or b""))
        elif record.topic == topics.DECISIONS.name:
            statuses = open_frame(record).parts[0].column("status").to_numpy()
            for status, count in enumerate(np.bincount(statuses).tolist()):
                self.ledger[Status(status).name.lower()] += count
        else:
            for total in read_totals(open_frame(record)):
                group = tuple(sorted(total.group.items()))
                key = (total.customer, total.meter, total.period_start, group)
                self.totals[key] = total
