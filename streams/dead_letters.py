"""Dead letters on usage.rejected: read, and their originals sent to usage.events again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from confluent_kafka import KafkaException

from pipeline.errors import Retry, Stop
from pipeline.periods import DAY_MS, DISORDER_DAYS
from pipeline.reject import DeadLetter, Position, Wanted, open_letter
from schemas import topics
from streams.cluster import look_at, newest_timestamp_ms, require_topic
from streams.failures import stop_if_hopeless
from streams.producer import KEEPS_ARRIVALS, Producer
from streams.read import partition_count, read_to_end

_ANSWER_SECONDS = 10.0

#: How long a broker that went away has to come back.
_TIMEOUT_SECONDS = 60.0


class Place(NamedTuple):
    """Where a dead letter lies on usage.rejected."""

    partition: int
    offset: int


def letters(
    kafka: Mapping[str, str], wanted: Wanted, say: Callable[[str], None] = lambda _: None
) -> Iterator[tuple[Place, DeadLetter]]:
    """The committed dead letters that are wanted, in the order of the log.

    `say` hears in the end of records that are none: what a stranger wrote must not keep the others
    from coming back.

    Raises:
        Retry: Kafka does not answer.
        Stop: there is no such topic, or it may not be read.
    """
    strange: list[Stop] = []
    with _answering(kafka):
        for partition in range(partition_count(kafka, topics.REJECTED.name)):
            for record in read_to_end(kafka, topics.REJECTED.name, partition):
                try:
                    letter = open_letter(record)
                except Stop as fault:
                    strange.append(fault)
                    continue
                if wanted.takes(letter):
                    yield Place(record.partition, record.offset), letter
    if strange:
        say(f"Records left out: {len(strange):,}. {strange[0]}")


def resend(
    kafka: Mapping[str, str],
    chosen: Iterable[DeadLetter],
    arrived: Callable[[Position, Position], None],
    *,
    keep_arrival: bool,
) -> None:
    """Send originals to usage.events: key, value and headers byte for byte.

    The order on usage.rejected is kept for each key. They arrive now, or at their original time.
    `arrived` hears of each that is safe: where it lay, and where it lies now.

    Raises:
        DeliveryFailed: some are not safe.
    """
    with Producer(
        kafka["bootstrap.servers"],
        timeout_seconds=_TIMEOUT_SECONDS,
        kafka={**kafka, **KEEPS_ARRIVALS, "log_level": "2"},
    ) as producer:
        for letter in chosen:
            original = letter.original
            producer.send_raw(
                original.value,
                key=original.key,
                headers=list(original.headers),
                timestamp_ms=original.timestamp_ms if keep_arrival else None,
                arrived=partial(arrived, letter.position),
            )


def require_topics(kafka: Mapping[str, str]) -> None:
    """Makes sure that both topics are there.

    Raises:
        Retry: no broker answers in time.
        Stop: one of them does not exist.
    """
    for topic in (topics.REJECTED, topics.EVENTS):
        require_topic(kafka, topic.name)


def oldest_arrival_ms(kafka: Mapping[str, str]) -> int:
    """Since when an original arrival may be kept, milliseconds since 1970.

    Tally forgets identities by arrival time. An arrival that is less than `DISORDER_DAYS` older
    than the newest one finds all that it could be a copy of; an older one might count twice.

    Raises:
        Retry: no broker answers in time.
        Stop: usage.events keeps no arrival times but its own.
    """
    events = topics.EVENTS.name
    config = look_at(kafka, [events], _ANSWER_SECONDS).topics[events].config
    if config.get("message.timestamp.type") == "LogAppendTime":
        raise Stop(
            f"{events} has message.timestamp.type=LogAppendTime: whatever is sent arrives now.",
            remedy="Replay with --arrival now.",
        )
    now_ms = time.time_ns() // 1_000_000
    newest_ms = newest_timestamp_ms(kafka, events, _ANSWER_SECONDS)
    # Behind the clock where an old trace is played. Ahead of it only by a producer's broken clock,
    # which is no measure for the others.
    newest_ms = now_ms if newest_ms < 0 else min(newest_ms, now_ms)
    return newest_ms - DISORDER_DAYS * DAY_MS


@contextmanager
def _answering(kafka: Mapping[str, str]) -> Iterator[None]:
    """What the client raises while it reads, as errors that say what to do."""
    try:
        yield
    except KafkaException as error:
        stop_if_hopeless(error, topics.REJECTED.name)
        raise Retry(
            f"Kafka does not answer on {kafka['bootstrap.servers']}: {error.args[0].str()}.",
            remedy="Check that the broker runs, and do the same again.",
        ) from error
