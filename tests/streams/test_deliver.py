"""The delivery loop: at least once to the sink, and no position before the sink has it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence, Set

from pipeline.errors import Retry
from pipeline.record import Attempt, Outgoing, Record, Written
from streams.deliver import Deliverer
from tests.streams.on_kafka import committed, create, publish, read, running, wait_until


class Recording:
    """A sink in memory. `before` is called with each batch, and may raise."""

    def __init__(self, name: str, before: Callable[[Sequence[Record]], None] | None = None) -> None:
        self.topics: Sequence[str] = (f"{name}.in",)
        self.taken: list[tuple[int, int]] = []
        self.calls = 0
        self.resumed: list[tuple[int, Attempt | None]] = []
        self.held: set[tuple[str, int]] = set()
        self._out = f"{name}.out"
        self._before = before or (lambda _: None)

    def resume(self, topic: str, partition: int, attempt: Attempt | None) -> None:
        """Note it."""
        del topic
        self.resumed.append((partition, attempt))

    def write(self, records: Sequence[Record], now_ms: int) -> Written:
        """Take the records."""
        assert now_ms > 0
        self.calls += 1
        self._before(records)
        self.taken += [(record.partition, record.offset) for record in records]
        outgoing = [Outgoing(self._out, record.value, partition=0) for record in records]
        return Written({(r.topic, r.partition): r.offset + 1 for r in records}, outgoing)

    def ahead(self) -> Set[tuple[str, int]]:
        """What the test says."""
        return self.held

    def forget(self, topic: str, partition: int) -> None:
        """Nothing is buffered."""


def deliverer(
    kafka: str, name: str, sink: Recording, stop: threading.Event, *, notes_attempts: bool = False
) -> Deliverer:
    return Deliverer(
        name,
        sink,
        {"bootstrap.servers": kafka},
        instance="a",
        stop=stop,
        linger_ms=50,
        notes_attempts=notes_attempts,
    )


def prepared(
    kafka: str, name: str, partitions: int = 2, records: int = 10
) -> list[tuple[int, int]]:
    """Topics with records; their places."""
    create(kafka, partitions, f"{name}.in")
    create(kafka, 1, f"{name}.out")
    places = [(number % partitions, number // partitions) for number in range(records)]
    publish(kafka, f"{name}.in", [(partition, b"%d" % offset) for partition, offset in places])
    return places


def offsets(kafka: str, name: str) -> list[int]:
    return [offset for offset, _ in committed(kafka, name, f"{name}.in").values()]


def test_records_reach_the_sink_and_then_their_positions_are_committed(kafka: str) -> None:
    places = prepared(kafka, "delivered")
    stop = threading.Event()
    sink = Recording("delivered")
    with running(deliverer(kafka, "delivered", sink, stop), stop):
        wait_until(lambda: offsets(kafka, "delivered") == [5, 5], "all is committed")
    assert sorted(sink.taken) == sorted(places)
    assert len(read(kafka, "delivered.out")) == len(places)


def test_what_the_sink_cannot_take_now_is_given_again_and_nothing_is_committed_before(
    kafka: str,
) -> None:
    places = prepared(kafka, "refused")
    refusals = iter([Retry("Not now.", remedy="Wait.", after_seconds=0.1)] * 3)

    def refuse(_: Sequence[Record]) -> None:
        assert offsets(kafka, "refused") == [0, 0]
        for refusal in refusals:
            raise refusal

    stop = threading.Event()
    sink = Recording("refused", refuse)
    with running(deliverer(kafka, "refused", sink, stop), stop):
        wait_until(lambda: len(sink.taken) == len(places), "all is taken")
    assert sorted(sink.taken) == sorted(places)
    assert sink.calls >= 4


def test_a_process_that_dies_while_sending_leaves_word_of_what_it_began(kafka: str) -> None:
    prepared(kafka, "noted", partitions=1)

    class Dead(Exception):
        pass

    def die(_: Sequence[Record]) -> None:
        raise Dead

    stop = threading.Event()
    try:
        with running(
            deliverer(kafka, "noted", Recording("noted", die), stop, notes_attempts=True), stop
        ):
            stop.wait(60)
    except Dead:
        pass
    assert offsets(kafka, "noted") == [0], "the position is still before the batch"

    stop = threading.Event()
    sink = Recording("noted")
    with running(deliverer(kafka, "noted", sink, stop, notes_attempts=True), stop):
        wait_until(lambda: offsets(kafka, "noted") == [10], "all is committed")
    ((partition, attempt),) = [resumed for resumed in sink.resumed if resumed[1] is not None]
    assert attempt is not None
    assert partition == 0
    assert attempt.through_offset <= 9
    assert attempt.since_ms > 0
    assert sink.taken == [(0, offset) for offset in range(10)]


def test_a_partition_that_is_ahead_is_not_read_on(kafka: str) -> None:
    prepared(kafka, "ahead")
    stop = threading.Event()
    sink = Recording("ahead")
    sink.held = {("ahead.in", 0)}
    with running(deliverer(kafka, "ahead", sink, stop), stop):
        wait_until(lambda: offsets(kafka, "ahead") == [5, 5], "the first records are committed")
        publish(kafka, "ahead.in", [(0, b"held"), (1, b"free")])
        wait_until(lambda: (1, 5) in sink.taken, "the other partition is read on")
        assert (0, 5) not in sink.taken
        sink.held = set()
        publish(kafka, "ahead.in", [(1, b"free")])
        wait_until(lambda: (0, 5) in sink.taken, "the held one is read in the end")


def test_two_processes_share_the_partitions_and_every_record_is_taken(kafka: str) -> None:
    places = prepared(kafka, "shared", partitions=4, records=40)
    stop, other_stop = threading.Event(), threading.Event()
    first, second = Recording("shared"), Recording("shared")
    other = Deliverer(
        "shared",
        second,
        {"bootstrap.servers": kafka},
        instance="b",
        stop=other_stop,
        linger_ms=50,
    )
    with running(deliverer(kafka, "shared", first, stop), stop), running(other, other_stop):
        wait_until(lambda: bool(first.resumed and second.resumed), "both have partitions")
        publish(kafka, "shared.in", [(number, b"more") for number in range(4)])
        wait_until(lambda: offsets(kafka, "shared") == [11] * 4, "all is committed")
    assert set(first.taken) | set(second.taken) == {*places, *((p, 10) for p in range(4))}
