"""Reading what reconciliation compares: many partitions at once, again and again, no group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from pipeline.open_frame import open_frame
from pipeline.reconcile_totals import Named
from pipeline.record import Record
from schemas import topics
from streams.ask_leader import answered, committed
from streams.clients import Place
from streams.cut import extents
from streams.read import any_record_of, partition_count, read_to_end, reader
from streams.stage import group_of
from streams.state_note import read_state_note

_ANSWER_SECONDS = 30.0


class Span(NamedTuple):
    """Offsets from `begin` to before `end`."""

    begin: int
    end: int


class Tail:
    """Reads topics on from where it left off."""

    def __init__(self, kafka: Mapping[str, str], starts: Mapping[Place, int] | None = None) -> None:
        self._kafka = kafka
        self._next = dict(starts or {})

    def read(self, topic: str, ends: Mapping[int, int] | None = None) -> Iterator[Record]:
        """What is new, up to where the topic ends now, or to before `ends` of its partitions.

        Waits until all that is decided, so that it has all of every transaction of ours.

        Raises:
            KafkaException: the broker does not answer.
        """
        spans = {}
        for partition, extent in enumerate(extents(self._kafka, [topic])[topic]):
            end = extent.end if ends is None else min(extent.end, ends.get(partition, 0))
            spans[topic, partition] = Span(self._next.get((topic, partition), extent.begin), end)
        yield from read_spans(self._kafka, spans)
        self._next |= {place: max(span) for place, span in spans.items()}


def read_spans(kafka: Mapping[str, str], spans: Mapping[Place, Span]) -> Iterator[Record]:
    """The committed records of all `spans`, in order per place; what was deleted is left out.

    Raises:
        KafkaException: the broker does not answer.
    """
    ends = {place: span.end for place, span in spans.items() if span.begin < span.end}
    if not ends:
        return
    consumer = reader(kafka, missing="earliest")
    try:
        consumer.assign([TopicPartition(*place, spans[place].begin) for place in ends])
        while ends:
            messages = consumer.consume(1, _ANSWER_SECONDS)
            if not messages:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "no answer"))
            # The rest of what has arrived; asking for many at first would wait for all of them.
            for message in messages + consumer.consume(10_000, 0):
                place = (message.topic() or "", message.partition() or 0)
                error = message.error()
                if error is not None and error.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(error)
                if place not in ends:
                    continue
                if error is None and (message.offset() or 0) < ends[place]:
                    yield any_record_of(message, kafka)
                if error is not None or (message.offset() or 0) + 1 >= ends[place]:
                    del ends[place]
                    consumer.pause([TopicPartition(*place)])
    finally:
        consumer.close()


def offsets_at(kafka: Mapping[str, str], topic: str, ms: int) -> dict[int, int | None]:
    """Per partition the first record at or after a time in milliseconds; None where there is none.

    Raises:
        KafkaException: the broker does not answer.
    """
    consumer = reader(kafka)
    try:
        asked = [TopicPartition(topic, n, ms) for n in range(partition_count(kafka, topic))]
        found = answered(lambda: _offsets_at(consumer, asked))
    finally:
        consumer.close()
    return {place.partition: place.offset if place.offset >= 0 else None for place in found}


def _offsets_at(consumer: Consumer, asked: list[TopicPartition]) -> list[TopicPartition]:
    found = consumer.offsets_for_times(asked, timeout=_ANSWER_SECONDS)
    for place in found:
        if place.error is not None:
            raise KafkaException(place.error)
    return found


def first_record(kafka: Mapping[str, str], topic: str, partition: int, begin: int) -> Record | None:
    """The first committed record from an offset on.

    Raises:
        KafkaException: the broker does not answer.
    """
    records = read_to_end(kafka, topic, partition, begin)
    try:
        return next(records, None)
    finally:
        records.close()  # type: ignore[attr-defined]


def named_by_definitions(kafka: Mapping[str, str]) -> dict[str, Named]:
    """Every version of the definitions that tally has counted by, and what is named in it.

    They are in the state of any shard, which is kept for ever, from its last snapshot on.

    Raises:
        KafkaException: the broker does not answer.
        Stop: the state is not readable by this program.
    """
    place = TopicPartition(topics.METERED.name, 0)
    consumer = Consumer({"log_level": 2, **kafka, "group.id": group_of("tally")})
    try:
        (done,) = committed(consumer, [place])
    finally:
        consumer.close()
    anchor = read_state_note((place.topic, place.partition), done.metadata or "")
    documents: dict[str, Any] = {}
    for record in read_to_end(kafka, topics.TALLY_STATE.name, 0, anchor or 0):
        documents |= open_frame(record).header["definitions"]
    return {
        version: Named(
            meters={meter["slug"] for meter in document["meters"]},
            billed_meters={meter["slug"] for meter in document["meters"] if meter["stripe"]},
            billed_customers={
                customer["id"]
                for customer in document["customers"]
                if customer["stripe_customer_id"] is not None
            },
        )
        for version, document in documents.items()
    }
