"""A consistent cut through topics that go on growing: where each begins and ends, for one look.

What is decided in one transaction becomes readable topic by topic, so a reader that compares topics
must know when each of them has all of it. An end here is behind everything that had been written
when it was looked up, decided or not; once all that is decided, it stays the same for ever.

On usage.events an end is before the first record that is undecided. Others write there, one of whom
may have a transaction open at any moment; but none of ours writes there, and intake reads no
further either.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

from pipeline.errors import Retry, Stop
from pipeline.overrun import Overrun
from pipeline.record import Record
from schemas.topics import EVENTS
from streams import ask_leader
from streams.ask_leader import watermarks
from streams.clients import Place
from streams.cluster import ask_for_topics
from streams.failures import stop_if_hopeless
from streams.read import partition_count, read_to_end
from streams.stage import group_of

_ANSWER_SECONDS = 30.0

#: Twice what a broker takes to end a transaction whose owner died, as in the session.
_DECIDED_SECONDS_MAX = 40.0


class Extent(NamedTuple):
    """The offsets of a partition: the first one that is kept, and the one behind the last."""

    begin: int
    end: int


def extents(kafka: Mapping[str, str], topics: Sequence[str]) -> dict[str, list[Extent]]:
    """Where each partition of `topics` begins and ends now; waits until all that is decided.

    For what others write to usage.events it does not wait.

    Raises:
        Stop: a topic does not exist.
        Retry: a transaction stays undecided.
        KafkaException: the broker does not answer.
    """
    # One after the other, but all ends are of a time before the first one is waited for.
    found = {
        topic: _extents(
            kafka, topic, "read_committed" if topic == EVENTS.name else "read_uncommitted"
        )
        for topic in topics
    }
    give_up = time.monotonic() + _DECIDED_SECONDS_MAX
    for topic, places in found.items():
        while not _are_decided(places, _extents(kafka, topic, "read_committed")):
            if time.monotonic() > give_up:
                raise Retry(
                    f"A transaction on {topic} stays undecided.",
                    remedy="Check that the brokers are healthy and run this again.",
                )
            time.sleep(0.05)
    return found


def committed(kafka: Mapping[str, str], stage: str, topic: str) -> list[int | None]:
    """Up to where a stage's group has done each partition; None where it never confirmed any.

    Waits for transactions that are being decided.

    Raises:
        KafkaException: the broker does not answer.
    """
    places = [(topic, number) for number in range(partition_count(kafka, topic))]
    return [*_committed(kafka, stage, places).values()]


def overruns(kafka: Mapping[str, str], stage: str, topics: Iterable[str]) -> Iterator[Overrun]:
    """Where a stage would stop at its start, as its position lies before all that is left.

    Nobody knows any more whether anything but markers of transactions lay in between.

    Raises:
        Stop: a topic does not exist.
        KafkaException: the broker does not answer.
    """
    # Before the positions: what is deleted once the stage has passed it is not lost.
    begins = _begins(kafka, topics)
    for place, position in _committed(kafka, stage, [*begins]).items():
        if position is not None and position < begins[place]:
            yield Overrun(stage, *place, position, begins[place])


def read_between(
    kafka: Mapping[str, str], topic: str, partition: int, begin: int, end: int
) -> Iterator[Record]:
    """The committed records of a partition from `begin` to before `end`, all decided.

    Raises:
        KafkaException: the broker does not answer, or `begin` was deleted meanwhile.
    """
    if begin >= end:
        return
    for record in read_to_end(kafka, topic, partition, begin, whole=True):
        if record.offset >= end:
            return
        yield record


@contextmanager
def explained(who: str) -> Iterator[None]:
    """What Kafka's client raises becomes an error that has a remedy.

    Raises:
        Stop: a person is needed.
        Retry: it may work later.
    """
    try:
        yield
    except KafkaException as error:
        stop_if_hopeless(error, who)
        raise Retry(
            f"{who}: Kafka does not answer as it should: {error.args[0].str()}.",
            remedy="Check METERLINE_BOOTSTRAP_SERVERS and that the brokers run, and try again.",
        ) from error


def _begins(kafka: Mapping[str, str], topics: Iterable[str]) -> dict[Place, int]:
    """The first offset that is kept, of each partition; asked of all at once."""
    known = ask_for_topics(kafka, _ANSWER_SECONDS).topics
    places = []
    for topic in topics:
        if topic not in known:
            raise _absent(topic)
        places += [(topic, number) for number in known[topic].partitions]
    begins = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
    found = ask_leader.offsets(kafka, begins, places, _ANSWER_SECONDS)
    return {place: at.offset for place, at in found.items()}


def _committed(
    kafka: Mapping[str, str], stage: str, places: Sequence[Place]
) -> dict[Place, int | None]:
    """Up to where a stage's group has done each of `places`, in their order."""
    asked = [TopicPartition(*place) for place in places]
    with _consumer(kafka, "read_committed", group_of(stage)) as consumer:
        found = ask_leader.committed(consumer, asked)
    return {
        (place.topic, place.partition): place.offset if place.offset >= 0 else None
        for place in found
    }


def _absent(topic: str) -> Stop:
    return Stop(
        f"Kafka has no topic {topic}.",
        remedy="Check METERLINE_BOOTSTRAP_SERVERS; `meterline topics` creates the topics.",
    )


def _extents(kafka: Mapping[str, str], topic: str, isolation: str) -> list[Extent]:
    count = partition_count(kafka, topic)
    if not count:
        raise _absent(topic)
    with _consumer(kafka, isolation, "meterline.reader") as consumer:
        return [Extent(*watermarks(consumer, topic, number)) for number in range(count)]


def _are_decided(wanted: Sequence[Extent], decided: Sequence[Extent]) -> bool:
    return all(now.end >= then.end for then, now in zip(wanted, decided, strict=True))


@contextmanager
def _consumer(kafka: Mapping[str, str], isolation: str, group: str) -> Iterator[Consumer]:
    """A consumer that asks, and never joins its group."""
    settings = {
        "log_level": 2,
        "group.id": group,
        "isolation.level": isolation,
        "enable.auto.commit": False,
    }
    consumer = Consumer(dict(kafka) | settings)
    try:
        yield consumer
    finally:
        consumer.close()
