"""A follower has everything in the end, also what its own client has not been given yet."""

from __future__ import annotations

from confluent_kafka import Producer

from schemas import topics
from streams.follow import Follower
from tests.streams.on_kafka import WAIT_SECONDS_MAX


def reject(kafka: str, count: int) -> None:
    """Dead letters, of which a follower only counts how many there are."""
    producer = Producer({"bootstrap.servers": kafka})
    for _ in range(count):
        producer.produce(topics.REJECTED.name, b"letter")
    assert producer.flush(WAIT_SECONDS_MAX) == 0


def test_what_came_since_the_last_look_is_there_in_the_end_and_only_once(
    empty_kafka: str,
) -> None:
    kafka = {"bootstrap.servers": empty_kafka}
    with Follower(kafka) as follower:
        reject(empty_kafka, 3)
        while follower.read() < 3:
            pass
        follower.read()  # its client has seen the end of every partition
        reject(empty_kafka, 2)
        follower.read_to_end()
        assert follower.ledger == {"rejected": 5}
        follower.read(1.0)  # its client sees the same two
        assert follower.ledger == {"rejected": 5}
