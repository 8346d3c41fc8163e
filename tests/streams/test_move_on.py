"""Positions on a real broker move past what is no record: retention deletes it where all is quiet.

What a transaction wrote is followed by a marker, and what was aborted is there as well.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest

from pipeline.record import Record, Written
from streams.confluent import ConfluentClients
from streams.deliver import Deliverer
from tests.streams.on_kafka import committed, create, read, running, wait_until
from tests.streams.recording import Recording
from tests.streams.summing import Numbers, Summing
from tests.streams.transacting import delete_before, transact, transactor


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.session.MOVE_ON_SECONDS", 0.5)
    monkeypatch.setattr("streams.deliver.MOVE_ON_SECONDS", 0.5)


def position(kafka: str, name: str, topic: str) -> int:
    """What is committed of partition 0."""
    return committed(kafka, name, topic)[0][0]


@pytest.mark.parametrize("has_state", [True, False])
def test_a_stage_goes_on_when_all_that_it_has_done_and_the_markers_are_deleted(
    kafka: str, has_state: bool
) -> None:
    stage = Summing(f"quiet-{has_state}".lower(), has_state=has_state)
    numbers = Numbers(kafka, stage, partitions=1)
    for life in range(3):
        transact(kafka, stage.input_topic, b"%d" % (life + 1))
        stop = threading.Event()
        with running(transactor(kafka, stage, stop), stop):
            wait_until(
                lambda: position(kafka, stage.name, stage.input_topic) == 4 * (life + 1),  # noqa: B023
                "the position is behind the last marker",
            )
        delete_before(kafka, stage.input_topic, 4 * (life + 1))
    sums = (1, 3, 6) if has_state else (1, 2, 3)
    assert numbers.written() == [[([4 * life], total) for life, total in enumerate(sums)]]


def test_a_stage_goes_on_where_nothing_but_what_was_aborted_has_ever_been(kafka: str) -> None:
    numbers = Numbers(kafka, stage := Summing("aborted"), partitions=1)
    transact(kafka, stage.input_topic)
    for end, batches in ((2, []), (6, [([2], 7)])):
        stop = threading.Event()
        with running(transactor(kafka, stage, stop), stop):
            wait_until(
                lambda: position(kafka, stage.name, stage.input_topic) == end,  # noqa: B023
                "the position is behind the last marker",
            )
        delete_before(kafka, stage.input_topic, end)
        assert numbers.written() == [batches]
        transact(kafka, stage.input_topic, b"7")


@pytest.mark.parametrize("has_state", [True, False])
def test_a_stage_goes_on_where_all_had_been_deleted_before_it_first_began(
    kafka: str, has_state: bool
) -> None:
    stage = Summing(f"introduced-late-{has_state}".lower(), has_state=has_state)
    numbers = Numbers(kafka, stage, partitions=1)
    transact(kafka, stage.input_topic, b"1")
    delete_before(kafka, stage.input_topic, 4)
    stop = threading.Event()
    with running(transactor(kafka, stage, stop), stop):
        wait_until(
            lambda: position(kafka, stage.name, stage.input_topic) == 4,
            "it knows that it was there",
        )
        transact(kafka, stage.input_topic, b"7")
        wait_until(
            lambda: position(kafka, stage.name, stage.input_topic) == 8,
            "the position is behind the last marker",
        )
    assert numbers.written() == [[([4], 7)]]


def test_a_sink_goes_on_when_all_that_it_has_done_and_the_markers_are_deleted(kafka: str) -> None:
    create(kafka, 1, "quiet.sink")
    clients = ConfluentClients({"bootstrap.servers": kafka})
    values = []
    for life in range(3):
        transact(kafka, "quiet.sink", b"%d" % life)
        sink, stop = Recording("quiet.sink"), threading.Event()
        loop = Deliverer("quiet", sink, clients, instance="a", stop=stop, linger_ms=50)
        with running(loop, stop):
            wait_until(
                lambda: position(kafka, "quiet", "quiet.sink") == 4 * (life + 1),  # noqa: B023
                "the position is behind the last marker",
            )
        values += sink.values
        delete_before(kafka, "quiet.sink", 4 * (life + 1))
    assert values == [b"0", b"1", b"2"]
    assert read(kafka, "quiet.sink") == []


class Slow(Recording):
    """Makes only the first record durable."""

    def write(self, records: Sequence[Record], now_ms: int) -> Written:
        """Keep the rest in hand."""
        written = super().write(records, now_ms)
        return replace(written, positions=dict.fromkeys(written.positions, 1))


def test_a_position_does_not_move_past_a_record_that_a_sink_still_has(kafka: str) -> None:
    create(kafka, 1, "quiet.held")
    for value in (b"1", b"2"):
        transact(kafka, "quiet.held", value)
    clients = ConfluentClients({"bootstrap.servers": kafka})
    sink, stop = Slow("quiet.held"), threading.Event()
    loop = Deliverer("held-back", sink, clients, instance="a", stop=stop, linger_ms=50)
    with running(loop, stop):
        wait_until(lambda: len(sink.values) == 2, "both are in its hands")
        wait_until(lambda: position(kafka, "held-back", "quiet.held") == 4, "it moves on")
        time.sleep(2)
        assert position(kafka, "held-back", "quiet.held") == 4
