"""What real clients share: how long a call may take, and how it takes positions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from streams.clients import Committed, Place

#: An unfinished transaction holds back every read_committed reader for at most this long.
TRANSACTION_TIMEOUT_MS = 10_000

ANSWER_SECONDS = 30.0


def patience() -> dict[str, int]:
    """How long a connection may be silent: one whose other end is gone must not outlive the
    transaction, and the default is a minute.
    """
    return {"socket.timeout.ms": TRANSACTION_TIMEOUT_MS * 9 // 10}


def positions(reached: Mapping[Place, Committed]) -> list[TopicPartition]:
    """Positions and their notes as the client library takes them."""
    return [
        TopicPartition(*place, -1 if committed.offset is None else committed.offset, committed.note)
        for place, committed in reached.items()
    ]


def within(seconds: float, call: Callable[[], object]) -> None:
    """Make a call of the client library that may hang, whatever time-out it is given.

    Sending offsets does so when a broker came back under the eyes of a producer that knew it as the
    coordinator of the group: https://github.com/confluentinc/librdkafka/issues/5456 and 5511. What
    hangs stays behind with its client, which the next session fences.
    """
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds + 1)
    if thread.is_alive():
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "the client does not answer"))
    try:
        if raised:
            raise raised[0]
    finally:
        # An error whose frames hold it is a cycle that keeps clients and their threads.
        raised.clear()
