"""Reading topics without a group: what is there now, committed records only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from sys import intern
from typing import Final, Literal

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from pipeline.record import PLAIN_HEADERS, Record
from streams.ask_leader import watermarks
from streams.cluster import ask_for_topics, unanswered

_ANSWER_SECONDS = 30.0

#: For whoever reads what other programs wrote. The client library unpacks with zstd no more than it
#: would receive, by default 100 MB, and comes back to the same record for ever.
UNPACKS_ALL: Final = {"receive.message.max.bytes": 2**31 - 1}


def record_of(message: Message) -> Record:
    """A message of the client library as the core knows it.

    Raises:
        SystemError: the name of a header is not UTF-8, so the client library cannot read it.
    """
    headers = tuple(message.headers() or ())
    # One topic and nearly always one tuple of headers are shared by a whole batch, which is then
    # half as large and stays in the processor's cache.
    return Record(
        intern(message.topic() or ""),
        message.partition() or 0,
        message.offset() or 0,
        message.timestamp()[1],
        message.key(),
        message.value(),
        PLAIN_HEADERS if headers == PLAIN_HEADERS else headers,  # type: ignore[arg-type]
    )


def any_record_of(message: Message, kafka: Mapping[str, str]) -> Record:
    """A message of a topic that other programs write to: the names of its headers may be any bytes.

    Raises:
        KafkaException: it has to be read once more, and the broker does not answer.
    """
    try:
        return record_of(message)
    except SystemError:
        place = (message.topic() or "", message.partition() or 0)
        return _read_past_python(kafka, TopicPartition(*place, message.offset() or 0))


def _read_past_python(kafka: Mapping[str, str], at: TopicPartition) -> Record:
    """One record as intake reads it, which hears of the names of headers what of them is text."""
    # What it needs takes longer to import than most commands do to run, and nearly never is needed.
    from streams.fetch import Fetcher

    consumer = reader(kafka)
    fetcher = Fetcher(consumer)
    try:
        fetcher.divert([(at.topic, at.partition)])
        consumer.assign([at])
        records = fetcher.read(1, _ANSWER_SECONDS)
    finally:
        fetcher.close()
        consumer.close()
    if not len(records):
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"no answer from {at.topic}"))
    return next(iter(records))


def read_to_end(
    kafka: Mapping[str, str], topic: str, partition: int, begin: int = 0, *, whole: bool = False
) -> Iterator[Record]:
    """The committed records of a partition from offset `begin` to where it ends now.

    If `begin` was deleted meanwhile, reading starts at what is left; where the `whole` is needed,
    that is an error.

    Raises:
        KafkaException: the broker does not answer, or `begin` is not there.
    """
    return _read_to_ends(kafka, topic, {partition: begin}, "error" if whole else "earliest")


def read_all(
    kafka: Mapping[str, str], topic: str, partitions: int, *, only_firsts: bool = False
) -> Iterator[Record]:
    """The committed records of all partitions of a topic, in order per partition: what is left of
    them, to where each ends now, or only the first of each.

    Raises:
        KafkaException: the broker does not answer.
    """
    begins = dict.fromkeys(range(partitions), 0)
    return _read_to_ends(kafka, topic, begins, "earliest", only_firsts=only_firsts)


def _read_to_ends(
    kafka: Mapping[str, str],
    topic: str,
    begins: Mapping[int, int],
    missing: Literal["error", "earliest"],
    *,
    only_firsts: bool = False,
) -> Iterator[Record]:
    """The committed records of partitions, each from its offset to where it ends now."""
    consumer = reader(kafka, missing=missing)
    unread = set(begins)
    try:
        consumer.assign([TopicPartition(topic, *begin) for begin in begins.items()])
        while unread:
            messages = consumer.consume(1, _ANSWER_SECONDS)
            if not messages:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"no answer from {topic}"))
            # The rest of what has arrived; asking for many at first would wait for all of them.
            for message in messages + consumer.consume(10_000, 0):
                _require_good(consumer, message)
                error = message.error()
                partition = message.partition() or 0
                if error is None and partition in unread:
                    yield any_record_of(message, kafka)
                if error is not None or only_firsts:
                    unread.discard(partition)
    finally:
        consumer.close()


def end_of(kafka: Mapping[str, str], topic: str, partition: int) -> int:
    """The offset behind the last committed record of a partition.

    Raises:
        KafkaException: the broker does not answer.
    """
    consumer = reader(kafka)
    try:
        return watermarks(consumer, topic, partition)[1]
    finally:
        consumer.close()


def next_records(
    kafka: Mapping[str, str], positions: Mapping[tuple[str, int], int | None]
) -> dict[tuple[str, int], int]:
    """The offset of the first committed record from each position on, or where its partition ends.

    None is the beginning.

    Raises:
        KafkaException: the broker does not answer, or a position is not there.
    """
    consumer = reader(kafka)
    found: dict[tuple[str, int], int] = {}
    try:
        consumer.assign(
            [
                TopicPartition(*place, OFFSET_BEGINNING if at is None else at)
                for place, at in positions.items()
            ]
        )
        while len(found) < len(positions):
            messages = consumer.consume(1, _ANSWER_SECONDS)
            if not messages:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "no answer"))
            for message in messages + consumer.consume(10_000, 0):
                _require_good(consumer, message)
                # Where a partition ends is told as the offset behind all that is decided.
                place = (message.topic() or "", message.partition() or 0)
                found.setdefault(place, message.offset() or 0)
    finally:
        consumer.close()
    return found


def not_there(consumer: Consumer, place: tuple[str, int], offset: int) -> KafkaException:
    """What to raise for a position that is not there: it says which, and what is there.

    Raises:
        KafkaException: the broker does not answer.
    """
    begin, end = watermarks(consumer, *place)
    left = f"{place[0]} {place[1]} has offsets from {begin} to before {end}"
    return KafkaException(KafkaError(KafkaError._AUTO_OFFSET_RESET, f"{left}, and not {offset}"))


def _require_good(consumer: Consumer, message: Message) -> None:
    """Whether it is a record, or says that a partition ends.

    Raises:
        KafkaException: it is an error.
    """
    error = message.error()
    if error is None or error.code() == KafkaError._PARTITION_EOF:
        return
    if error.code() == KafkaError._AUTO_OFFSET_RESET:
        place = (message.topic() or "", message.partition() or 0)
        raise not_there(consumer, place, message.offset() or 0)
    raise KafkaException(error)


def partition_count(kafka: Mapping[str, str], topic: str) -> int:
    """How many partitions a topic has; 0 if it does not exist.

    Raises:
        Retry: Kafka does not answer.
        Stop: this user may not log in, or not use the topic.
    """
    try:
        return len(ask_for_topics(kafka, _ANSWER_SECONDS, topic).topics[topic].partitions)
    except KafkaException as error:
        raise unanswered(kafka, error) from error


def topic_id(kafka: Mapping[str, str], topic: str) -> str:
    """What tells a topic from every other, also from one of its name that was there before.

    Raises:
        KafkaException: the broker does not answer, or the topic does not exist.
    """
    admin = AdminClient({**kafka, "log_level": "2"})
    described = admin.describe_topics(TopicCollection([topic]), request_timeout=_ANSWER_SECONDS)
    return str(described[topic].result(_ANSWER_SECONDS).topic_id)


def reader(
    kafka: Mapping[str, str], *, missing: Literal["error", "earliest"] = "error"
) -> Consumer:
    """A consumer of committed records that joins no group and says where partitions end.

    `missing` is what happens at an offset that is not there.
    """
    return Consumer(
        dict(kafka)
        | UNPACKS_ALL
        | {
            # Below "critical" the client tells of every attempt; what matters is raised.
            "log_level": 2,
            "group.id": "meterline.reader",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "auto.offset.reset": missing,
            "fetch.wait.max.ms": 20,
            "fetch.message.max.bytes": 16 * 1024 * 1024,
        }
    )
