"""Positions that a real broker has forgotten are told from those of a first start."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from pipeline.errors import Stop
from pipeline.record import Outgoing, Record
from schemas import topics
from schemas.definitions import Definitions
from streams.confluent import ConfluentClients
from streams.deliver import Deliverer
from streams.forgotten import Answers
from streams.intake import IntakeStage
from streams.stage import group_of
from tests.streams.on_kafka import (
    WAIT_SECONDS_MAX,
    committed,
    create,
    publish,
    run_to_its_end,
    running,
    wait_until,
)
from tests.streams.recording import Recording
from tests.streams.summing import Numbers, Summing
from tests.streams.transacting import delete_before, run_until_done, transact, transactor


@pytest.fixture(autouse=True)
def _short_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.stage.SESSION_TIMEOUT_MS", 1_000)


def forget(kafka: str, stage: str) -> None:
    """What Kafka does once a group has had no member for offsets.retention.minutes."""
    admin = AdminClient({"bootstrap.servers": kafka})

    def is_forgotten() -> bool:
        (deleted,) = admin.delete_consumer_groups([group_of(stage)]).values()
        try:
            deleted.result(WAIT_SECONDS_MAX)
        except KafkaException:
            return False  # Static members are missed only after their session.
        return True

    wait_until(is_forgotten, "the group has no members")


# Stages without memory


def test_a_stage_without_memory_stops_when_its_positions_are_forgotten(kafka: str) -> None:
    numbers = Numbers(kafka, stage := Summing("forgotten", has_state=False))
    numbers.send(3)
    run_until_done(kafka, stage, numbers)
    written = numbers.written()
    forget(kafka, stage.name)
    stop = threading.Event()
    with pytest.raises(Stop, match=r"no position in forgotten\.in, but forgotten\.out") as stopped:
        run_to_its_end(transactor(kafka, stage, stop), stop)
    assert "docs/operating.md" in stopped.value.remedy
    assert numbers.written() == written


def test_one_partition_without_a_position_is_a_new_one(kafka: str) -> None:
    numbers = Numbers(kafka, stage := Summing("grown", has_state=False))
    publish(kafka, stage.input_topic, [(1, b"1")])
    stop = threading.Event()
    with running(transactor(kafka, stage, stop), stop):
        wait_until(lambda: numbers.positions() == [0, 1], "one partition is confirmed")
    publish(kafka, stage.input_topic, [(0, b"1")])
    stop = threading.Event()
    with running(transactor(kafka, stage, stop), stop):
        wait_until(lambda: numbers.positions() == [1, 1], "both are")


def test_state_knows_positions_that_kafka_has_forgotten(kafka: str) -> None:
    numbers = Numbers(kafka, stage := Summing("remembered"))
    numbers.send(3)
    run_until_done(kafka, stage, numbers)
    forget(kafka, stage.name)
    numbers.send(2)
    run_until_done(kafka, stage, numbers)
    numbers.assert_exact()


def test_state_knows_positions_that_moved_on_where_nothing_came_for_longer_than_retention(
    kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.session.MOVE_ON_SECONDS", 0.5)
    numbers = Numbers(kafka, stage := Summing("quiet-and-forgotten"), partitions=1)
    numbers.send(3)
    transact(kafka, stage.input_topic)
    stop = threading.Event()
    with running(transactor(kafka, stage, stop), stop):
        wait_until(lambda: numbers.positions() == [5], "the position is behind the last marker")
    delete_before(kafka, stage.input_topic, 5)
    forget(kafka, stage.name)
    transact(kafka, stage.input_topic, b"100")
    with running(transactor(kafka, stage, stop := threading.Event()), stop):
        wait_until(lambda: numbers.positions() == [9], "it has gone on")
    assert numbers.written()[0][-1] == ([5], sum((1, 8, 15)) + 100)


def test_packs_show_that_intake_was_there_and_definitions_do_not() -> None:
    meter = {"slug": "m", "event_type": "t", "aggregation": "count"}
    stage = IntakeStage(Definitions.model_validate({"meters": [meter]}), shards=1)
    event = (
        b'{"specversion":"1.0","id":"1","source":"/","type":"t","subject":"s",'
        b'"time":"2026-11-20T09:30:00Z","data":{}}'
    )
    arrival_ms = 1_795_253_400_000
    steps = stage.step([Record(topics.EVENTS.name, 0, 0, arrival_ms, None, event)])

    def left(outgoing: Sequence[Outgoing]) -> list[bool]:
        written = [Record(each.topic, 0, 0, 0, None, each.value) for each in outgoing]
        return list(map(stage.trace.is_left_by_step, written))

    assert stage.trace.topic == topics.METERED.name
    assert left(stage.announce()) == [False]
    assert left(steps) == [True]


# Sinks that answer


class Answering:
    """A deployment of one sink that answers to each record of two partitions."""

    def __init__(self, kafka: str, name: str) -> None:
        self.kafka, self.name = kafka, name
        self.asked, self.answers = f"{name}.asked", f"{name}.answers"
        self.clients = ConfluentClients({"bootstrap.servers": kafka})
        create(kafka, 2, self.asked, self.answers)

    def ask(self, partition: int, *keys: bytes) -> None:
        """Write records."""
        writer = self.clients.writer(self.name, "asking")
        writer.write([Outgoing(self.asked, b"?", key, partition) for key in keys])

    def answer(self, record: Record) -> Iterator[Outgoing]:
        """What the sink says."""
        yield Outgoing(self.answers, b"!", record.key, record.partition)

    def loop(self, sink: Recording, stop: threading.Event) -> Deliverer:
        """The delivery loop, as that of the stage stripe."""
        return Deliverer(
            self.name,
            sink,
            self.clients,
            instance="a",
            stop=stop,
            linger_ms=50,
            notes_attempts=True,
            answers=Answers(self.clients, self.asked, self.answers),
        )

    def run(self, positions: dict[int, int], **how: Any) -> Recording:
        """Run until the group is there; what the sink was given."""
        sink = Recording(self.asked, outgoing=lambda record: list(self.answer(record)), **how)
        stop = threading.Event()
        with running(self.loop(sink, stop), stop):
            wait_until(lambda: self.positions() == positions, "all is confirmed")
        return sink

    def positions(self) -> dict[int, int]:
        """What is confirmed."""
        found = committed(self.kafka, self.name, self.asked)
        return {partition: offset for partition, (offset, _) in found.items()}


def test_a_sink_whose_positions_are_forgotten_stops_and_names_them(kafka: str) -> None:
    """Before it delivers anything again, and also for partitions that have no answers yet."""
    answering = Answering(kafka, "amnesia")
    answering.ask(1, b"a", b"b")
    answering.run({0: 0, 1: 2})
    forget(kafka, answering.name)
    answering.ask(0, b"c")
    answering.ask(1, b"d")
    sink, stop = Recording(answering.asked), threading.Event()
    with pytest.raises(Stop, match=r"no position in partitions of amnesia\.asked") as stopped:
        run_to_its_end(answering.loop(sink, stop), stop)
    assert "amnesia.asked,1,2, as" in stopped.value.remedy
    assert sink.values == []


def test_a_partition_without_answers_begins_at_its_beginning(kafka: str) -> None:
    answering = Answering(kafka, "afresh")
    answering.ask(1, b"a", b"b")
    answering.run({0: 0, 1: 2})
    answering.ask(0, b"c")
    assert len(answering.run({0: 1, 1: 2}).values) == 1


def test_a_topic_of_answers_that_does_not_exist_is_named(kafka: str) -> None:
    create(kafka, 1, "mute.asked")
    clients = ConfluentClients({"bootstrap.servers": kafka})
    answers = Answers(clients, "mute.asked", "mute.answers")
    consumer = clients.consumer("mute", "a")
    with pytest.raises(KafkaException, match=r"mute\.answers"):
        answers.require_positions("mute", consumer)
    consumer.close()


def test_a_first_start_that_died_before_its_answers_goes_on(kafka: str) -> None:
    answering = Answering(kafka, "stillborn")
    answering.ask(0, b"a")

    def die(_: Sequence[Record]) -> None:
        raise ZeroDivisionError

    dying, stop = Recording(answering.asked, on_write=die), threading.Event()
    with pytest.raises(ZeroDivisionError):
        run_to_its_end(answering.loop(dying, stop), stop)
    assert len(answering.run({0: 1, 1: 0}).values) == 1
