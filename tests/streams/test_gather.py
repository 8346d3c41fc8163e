"""The batches that the transactional shell gathers: how many records, how many bytes, how long."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from streams.confluent import ConfluentClients
from streams.transact import Transactor
from tests.streams.on_kafka import create, publish, running, wait_until
from tests.streams.summing import Summing

#: Of one record.
_BYTES = 1_000


@contextmanager
def batches_of(kafka: str, name: str, first: int, **options: int) -> Iterator[list[int]]:
    """The sizes of a stage's batches; `first` records are there before it starts."""
    sizes: list[int] = []
    stage = Summing(name, has_state=False, before_step=lambda batch: sizes.append(len(batch)))
    create(kafka, 1, stage.input_topic, stage.output_topic)
    send(kafka, name, first)
    stop = threading.Event()
    clients = ConfluentClients({"bootstrap.servers": kafka})
    with running(Transactor(stage, clients, instance="a", stop=stop, **options), stop):
        yield sizes


def send(kafka: str, name: str, count: int) -> None:
    """Publish so many records to a stage's input."""
    publish(kafka, f"{name}.in", [(0, b"7".zfill(_BYTES))] * count)


def test_a_batch_ends_where_its_bytes_are_reached(kafka: str) -> None:
    with batches_of(kafka, "gather.bytes", 300, batch_bytes_max=10 * _BYTES) as sizes:
        wait_until(lambda: sum(sizes) == 300, "all are counted")
    # It is looked at once it is there, so the one that reaches the limit is in it.
    assert 2 <= max(sizes) <= 11


def test_a_batch_ends_where_its_records_are_reached(kafka: str) -> None:
    with batches_of(kafka, "gather.records", 300, batch_max=7) as sizes:
        wait_until(lambda: sum(sizes) == 300, "all are counted")
    assert max(sizes) == 7


def test_a_batch_has_what_comes_within_the_linger_time_of_its_first_record(kafka: str) -> None:
    with batches_of(kafka, "gather.linger", 1, linger_ms=3_000) as sizes:
        wait_until(lambda: sizes == [1], "the first is counted, and the stage is under way")
        for _ in range(4):
            send(kafka, "gather.linger", 1)
        wait_until(lambda: sum(sizes) == 5, "all are counted")
    assert sizes == [1, 4]


def test_a_batch_that_is_full_does_not_wait_for_the_linger_time(kafka: str) -> None:
    with batches_of(kafka, "gather.full", 20, batch_max=5, linger_ms=3_600_000) as sizes:
        wait_until(lambda: sum(sizes) == 20, "all are counted")
    assert sizes == [5, 5, 5, 5]
