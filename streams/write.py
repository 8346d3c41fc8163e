"""Writing what a step or a sink says: the broker acknowledges all of it, or it is an error."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from pipeline.record import Outgoing
from streams.failures import untangled

#: What producers of both loops have in common.
WRITER: dict[str, str | int] = {
    "compression.type": "lz4",
    # The client measures a record as it is, the broker what is left of it when it is compressed.
    # That is what must fit: columns of texts and zeros become a small part of themselves.
    "message.max.bytes": 256 * 1024 * 1024,
    # A customer's records lie where clients in Java look for them.
    "partitioner": "murmur2_random",
    # From 30 s: how long a topic that does not exist may still be about to come.
    "topic.metadata.propagation.max.ms": 5_000,
}

#: What an acknowledgement without a place means.
NO_PLACE = KafkaError(
    KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, "acknowledged, but it may not have arrived"
)

#: Lets the producer choose the partition, by the record's key.
_BY_KEY = -1

_ANSWER_SECONDS = 30.0


def has_place(message: Message) -> bool:
    """Whether an acknowledged message says where it lies; one that does not may be lost.

    Where the broker does not know a producer yet, it takes any of its batches for the first one.
    So when the first is refused, as by a leader that has just come into office, the second may pass
    it; and from its success the client library concludes that the first arrived before it.
    """
    offset = message.offset()
    return offset is not None and offset >= 0


@untangled()
def write(producer: Producer, outgoing: Sequence[Outgoing]) -> list[tuple[int, int]]:
    """Publish `outgoing` in its order and wait for the broker.

    Returns where each record came to lie: (partition, offset).

    Raises:
        KafkaException: not all of it was acknowledged.
    """
    failures: list[KafkaError] = []
    places = [(0, 0)] * len(outgoing)

    def acknowledged(number: int, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            failures.append(error)
        elif not has_place(message):
            failures.append(NO_PLACE)
        else:
            places[number] = (message.partition() or 0, message.offset() or 0)

    for number, record in enumerate(outgoing):
        while True:
            try:
                producer.produce(
                    record.topic,
                    value=record.value,
                    key=record.key,
                    headers=list(record.headers),
                    on_delivery=partial(acknowledged, number),
                    partition=_BY_KEY if record.partition is None else record.partition,
                )
                break
            except BufferError:
                producer.poll(0.05)
    unanswered = producer.flush(_ANSWER_SECONDS)
    if failures:
        raise KafkaException(failures[0])
    if unanswered:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
    return places
