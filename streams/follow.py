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
from streams.read import partition_count, reader, record_of

_TOPICS = (topics.DECISIONS, topics.REJECTED, topics.TOTALS, topics.ALERTS)

#: A broker that is away for a while is no reason to give up reading.
_PASSING = (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE)


class Follower:
    """Reads from the beginning, committed records only, and keeps what they add up to."""

    def __init__(self, kafka: Mapping[str, str]) -> None:
        self.ledger: Counter[str] = Counter()
        #: (customer, meter, period start, group) → the newest total.
        self.totals: dict[tuple[object, ...], Total] = {}
        self.alerts: list[Alert] = []
        self._consumer: Consumer = reader(kafka)
        places = [
            TopicPartition(topic.name, partition, 0)
            for topic in _TOPICS
            for partition in range(partition_count(kafka, topic.name))
        ]
        self._consumer.assign(places)
        self._unfinished = {(place.topic, place.partition) for place in places}

    def read(self, wait_seconds: float = 0.2) -> int:
        """Take in what has come; how many events are decided or rejected by now."""
        for message in self._consumer.consume(1_000, wait_seconds):
            error = message.error()
            place = (message.topic() or "", message.partition() or 0)
            if error is None:
                self._unfinished.add(place)
                self._take(record_of(message))
            elif error.code() == KafkaError._PARTITION_EOF:
                self._unfinished.discard(place)
            elif not error.retriable() and error.code() not in _PASSING:
                raise KafkaException(error)
        return self.ledger.total()

    def read_to_end(self) -> None:
        """Take in everything that is there now."""
        while self._unfinished:
            self.read()

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
