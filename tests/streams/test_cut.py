"""A cut through topics ends behind everything that was written, and waits until it is decided.

On usage.events it ends where intake can read to.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from uuid import uuid4

import pytest
from confluent_kafka import KafkaError, KafkaException

from pipeline.errors import Retry, Stop
from pipeline.overrun import Overrun
from schemas.topics import EVENTS
from streams import cut
from streams.cut import Extent, committed, explained, extents, overruns, read_between
from tests.streams.on_kafka import (
    WAIT_SECONDS_MAX,
    create,
    open_transaction,
    publish,
    set_position,
)
from tests.streams.transacting import delete_before


@pytest.fixture
def topic(kafka: str) -> str:
    """A topic of two partitions."""
    name = f"cut-{uuid4().hex}"
    create(kafka, 2, name)
    return name


def test_a_cut_waits_for_what_is_undecided_and_then_has_all_of_it(
    kafka: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"bootstrap.servers": kafka}
    producer = open_transaction(kafka, topic)
    found: list[dict[str, list[Extent]]] = []
    has_looked = threading.Event()
    monkeypatch.setattr(cut, "_are_decided", _noting(has_looked, cut._are_decided))
    looking = threading.Thread(target=lambda: found.append(extents(settings, [topic])))
    looking.start()
    # On a busy machine its first look may take longer, and must be before the commit.
    assert has_looked.wait(WAIT_SECONDS_MAX)
    looking.join(0.5)
    assert looking.is_alive()
    producer.commit_transaction(WAIT_SECONDS_MAX)
    looking.join(WAIT_SECONDS_MAX)
    assert found == [{topic: [Extent(0, 3), Extent(0, 0)]}]
    publish(kafka, topic, [(0, b"later"), (1, b"later")])
    values = [record.value for record in read_between(settings, topic, 0, 1, 3)]
    assert values == [b"1", b"2"]
    assert list(read_between(settings, topic, 1, 0, 0)) == []


def _noting(
    called: threading.Event, function: Callable[[Sequence[Extent], Sequence[Extent]], bool]
) -> Callable[[Sequence[Extent], Sequence[Extent]], bool]:
    def noted(wanted: Sequence[Extent], decided: Sequence[Extent]) -> bool:
        called.set()
        return function(wanted, decided)

    return noted


def test_what_stays_undecided_is_an_error_with_a_remedy(
    kafka: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cut, "_DECIDED_SECONDS_MAX", 0.2)
    producer = open_transaction(kafka, topic)
    with pytest.raises(Retry, match=f"A transaction on {topic} stays undecided"):
        extents({"bootstrap.servers": kafka}, [topic])
    producer.abort_transaction(WAIT_SECONDS_MAX)


def test_it_does_not_wait_for_what_a_producer_leaves_undecided_on_usage_events(
    bare_kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cut, "_DECIDED_SECONDS_MAX", 0.2)
    create(bare_kafka, 2, EVENTS.name)
    publish(bare_kafka, EVENTS.name, [(0, b"before"), (1, b"beside")])
    producer = open_transaction(bare_kafka, EVENTS.name)
    publish(bare_kafka, EVENTS.name, [(0, b"behind"), (1, b"beside")])
    found = extents({"bootstrap.servers": bare_kafka}, [EVENTS.name])
    producer.abort_transaction(WAIT_SECONDS_MAX)
    assert found == {EVENTS.name: [Extent(0, 1), Extent(0, 2)]}


def test_a_group_that_confirmed_nothing_has_no_positions(kafka: str, topic: str) -> None:
    assert committed({"bootstrap.servers": kafka}, topic, topic) == [None, None]


def test_a_position_is_overrun_until_it_is_set_behind_what_was_deleted(
    kafka: str, topic: str
) -> None:
    settings = {"bootstrap.servers": kafka}
    publish(kafka, topic, [(0, b"deleted")] * 3 + [(0, b"left")])
    delete_before(kafka, topic, 3)
    assert list(overruns(settings, topic, [topic])) == []
    for position, found in ((0, [Overrun(topic, topic, 0, 0, 3)]), (3, [])):
        set_position(kafka, topic, topic, position)
        assert list(overruns(settings, topic, [topic])) == found


def test_a_topic_that_does_not_exist_is_said(kafka: str) -> None:
    with pytest.raises(Stop, match="Kafka has no topic nowhere"):
        extents({"bootstrap.servers": kafka}, ["nowhere"])


def test_what_was_deleted_is_an_error_and_is_not_jumped_over(kafka: str, topic: str) -> None:
    publish(kafka, topic, [(0, b"only")])
    with pytest.raises(Stop, match="Its position was deleted"), explained("a reader"):
        list(read_between({"bootstrap.servers": kafka}, topic, 0, 5, 9))


def test_what_kafka_says_becomes_an_error_with_a_remedy() -> None:
    with pytest.raises(Retry, match="a reader: Kafka does not answer"), explained("a reader"):
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
