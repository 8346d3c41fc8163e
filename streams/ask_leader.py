"""What only the leader of a partition answers, asked again while the partition has none.

A leader changes whenever a broker restarts, and a new topic's has yet to be told. The client
library waits for that where it reads and writes; to a question about offsets it gives the error.
https://github.com/getsentry/self-hosted/issues/3162

A group's coordinator is the leader of the partition that has its positions, and changes as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ListOffsetsResultInfo,
    OffsetSpec,
)

Answer = TypeVar("Answer")

_ANSWER_SECONDS = 30.0
_PAUSE_SECONDS = 0.1

_PASSING = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.KAFKA_STORAGE_ERROR,
    # A broker that was asked has not heard of a new topic yet.
    KafkaError._UNKNOWN_PARTITION,
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError._WAIT_COORD,
)


def watermarks(consumer: Consumer, topic: str, partition: int) -> tuple[int, int]:
    """The first offset of a partition, and the one behind the last that `consumer` may read.

    Raises:
        KafkaException: the broker does not answer, or the partition stays without a leader.
    """
    place = TopicPartition(topic, partition)
    begin, end = answered(lambda: consumer.get_watermark_offsets(place, _ANSWER_SECONDS))
    return begin, end


def offsets(
    kafka: Mapping[str, str], spec: OffsetSpec, places: Iterable[tuple[str, int]], seconds: float
) -> dict[tuple[str, int], ListOffsetsResultInfo]:
    """What `spec` asks for, of each (topic, partition); asked of all at once.

    Raises:
        KafkaException: a broker does not answer, or a partition stays without a leader.
    """
    asked = {TopicPartition(*place): spec for place in places}
    admin = AdminClient({"log_level": "2", **kafka})

    def ask() -> dict[tuple[str, int], ListOffsetsResultInfo]:
        answers = admin.list_offsets(asked, request_timeout=seconds)
        return {(at.topic, at.partition): answer.result() for at, answer in answers.items()}

    return answered(ask, seconds)


def committed(consumer: Consumer, places: Sequence[TopicPartition]) -> list[TopicPartition]:
    """Up to where the group of `consumer` has done each of `places`; below zero: not begun.

    Raises:
        KafkaException: the broker does not answer, or the group stays without a coordinator.
    """

    def ask() -> list[TopicPartition]:
        found = consumer.committed(list(places), timeout=_ANSWER_SECONDS)
        for place in found:
            if place.error is not None:
                raise KafkaException(place.error)
        return found

    return answered(ask)


def answered(ask: Callable[[], Answer], within_seconds: float = _ANSWER_SECONDS) -> Answer:
    """What `ask` returns, once it does not raise that there is no leader or coordinator.

    Raises:
        KafkaException: it raises another error, or this one for too long.
    """
    give_up = time.monotonic() + within_seconds
    while True:
        try:
            return ask()
        except KafkaException as error:
            if error.args[0].code() not in _PASSING or time.monotonic() > give_up:
                raise
        time.sleep(_PAUSE_SECONDS)
