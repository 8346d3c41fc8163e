"""The delivery loop on a real broker: everything at least once, and confirmed only when durable."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from pipeline.errors import Retry, Stop
from pipeline.record import Attempt, Outgoing, Record
from streams import deliver
from streams.confluent import ConfluentClients
from streams.deliver import Deliverer
from streams.forgotten import Answers
from streams.local_kafka import LocalKafka
from tests.streams.guarded_kafka import GuardedKafka
from tests.streams.on_kafka import (
    WAIT_SECONDS_MAX,
    committed,
    create,
    publish,
    read,
    run_to_its_end,
    running,
    set_position,
    wait_until,
)
from tests.streams.recording import Recording


class Died(Exception):
    """Ends the process of a sink, as far as a test in one process can."""


def deliverer(
    kafka: str, name: str, sink: Recording, stop: threading.Event, **how: Any
) -> Deliverer:
    settings = {"bootstrap.servers": kafka, "log_level": "0"} | how.pop("client", {})
    usual: dict[str, Any] = {"instance": "a", "linger_ms": 50}
    return Deliverer(name, sink, ConfluentClients(settings), stop=stop, **(usual | how))


def run_until(kafka: str, name: str, sink: Recording, count: int, **how: Any) -> None:
    """Run until so many records are written and confirmed."""
    stop = threading.Event()

    def done() -> bool:
        confirmed = committed(kafka, name, sink.topics[0])
        return len(sink.values) >= count and sum(offset for offset, _ in confirmed.values()) > 0

    with running(deliverer(kafka, name, sink, stop, **how), stop):
        wait_until(done, f"{count} records are written")


def run_until_it_dies(kafka: str, name: str, sink: Recording, **how: Any) -> None:
    stop = threading.Event()
    with pytest.raises(Died):
        run_to_its_end(deliverer(kafka, name, sink, stop, **how), stop)


def numbered(begin: int, end: int) -> list[tuple[int, bytes]]:
    return [(0, b"%d" % number) for number in range(begin, end)]


def values(begin: int, end: int) -> list[bytes]:
    return [value for _, value in numbered(begin, end)]


def test_records_are_handed_over_in_order_and_confirmed_only_afterwards(kafka: str) -> None:
    create(kafka, 1, "deliver.order")
    publish(kafka, "deliver.order", numbered(0, 5))
    confirmed_before: list[int] = []
    sink = Recording(
        "deliver.order",
        on_write=lambda _: confirmed_before.append(
            committed(kafka, "order", "deliver.order")[0][0]
        ),
    )
    stop = threading.Event()
    with running(deliverer(kafka, "order", sink, stop, batch_max=2), stop):
        wait_until(lambda: len(sink.values) == 5, "all is written")
        wait_until(
            lambda: committed(kafka, "order", "deliver.order")[0] == (5, ""), "all is confirmed"
        )
    assert sink.values == values(0, 5)
    written = 0
    for before, batch in zip(confirmed_before, sink.batches, strict=True):
        assert before == written
        written += len(batch)
    assert sink.broken_contract == []


def test_what_a_process_had_in_hand_when_it_died_is_handed_over_again(kafka: str) -> None:
    create(kafka, 1, "deliver.died")
    publish(kafka, "deliver.died", numbered(0, 3))
    run_until(kafka, "died", Recording("deliver.died"), 3)
    publish(kafka, "deliver.died", numbered(3, 6))
    run_until_it_dies(kafka, "died", dying_sink("deliver.died"))
    publish(kafka, "deliver.died", numbered(6, 8))
    successor = Recording("deliver.died")
    run_until(kafka, "died", successor, 5)
    assert successor.values == values(3, 8)
    assert successor.resumed == [(("deliver.died", 0), None)]


def dying_sink(topic: str) -> Recording:
    def die(_: Sequence[Record]) -> None:
        raise Died

    return Recording(topic, on_write=die)


def test_an_attempt_is_noted_before_it_begins_and_known_to_whoever_comes_next(kafka: str) -> None:
    """Also to the one after that: the second death does not make the first attempt younger."""
    create(kafka, 1, "deliver.noted")
    publish(kafka, "deliver.noted", numbered(0, 4))
    began_ms = time.time_ns() // 1_000_000
    run_until_it_dies(kafka, "noted", dying_sink("deliver.noted"), notes_attempts=True)
    ended_ms = time.time_ns() // 1_000_000
    # More has come, and fits into the next batch.
    publish(kafka, "deliver.noted", numbered(4, 6))
    second = dying_sink("deliver.noted")
    run_until_it_dies(kafka, "noted", second, notes_attempts=True, batch_max=2)
    third = Recording("deliver.noted")
    run_until(kafka, "noted", third, 6, notes_attempts=True)

    ((_, attempt),) = second.resumed
    assert attempt is not None
    assert attempt.through_offset == 3
    assert began_ms <= attempt.since_ms <= ended_ms
    assert third.resumed == second.resumed
    # The old attempt is ended by itself, without a record that joined it later.
    assert [len(batch) for batch in third.batches] == [4, 2]
    assert third.values == values(0, 6)
    assert committed(kafka, "noted", "deliver.noted")[0] == (6, "")


def test_an_attempt_stays_noted_until_all_of_it_is_confirmed(kafka: str) -> None:
    create(kafka, 1, "deliver.partly")
    publish(kafka, "deliver.partly", numbered(0, 5))
    run_until_it_dies(kafka, "partly", dying_sink("deliver.partly"), notes_attempts=True)
    batches = 0

    def die_at_the_second(_: Sequence[Record]) -> None:
        nonlocal batches
        batches += 1
        if batches == 2:
            raise Died

    second = Recording("deliver.partly", on_write=die_at_the_second)
    run_until_it_dies(kafka, "partly", second, notes_attempts=True, batch_max=2)
    third = Recording("deliver.partly")
    run_until(kafka, "partly", third, 3, notes_attempts=True)
    assert [number for _, number in second.resumed] == [number for _, number in third.resumed]
    assert isinstance(third.resumed[0][1], Attempt)
    assert third.values == values(2, 5)
    assert committed(kafka, "partly", "deliver.partly")[0] == (5, "")


def test_a_refusal_is_waited_out_and_the_same_records_are_given_again(
    kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait is as long as asked for; the process stays a member, though it reads nothing."""
    monkeypatch.setattr("streams.stage.SESSION_TIMEOUT_MS", 1_000)
    create(kafka, 1, "deliver.refused")
    publish(kafka, "deliver.refused", numbered(0, 3))
    given: list[list[bytes | None]] = []

    def refuse_once(records: Sequence[Record]) -> None:
        given.append([record.value for record in records])
        if len(given) == 1:
            publish(kafka, "deliver.refused", numbered(3, 5))
            raise Retry("not now", remedy="wait", after_seconds=3)

    sink = Recording("deliver.refused", on_write=refuse_once)
    # Whoever does not poll for this long is thrown out of the group.
    impatient = {"max.poll.interval.ms": "1500"}
    run_until(kafka, "refused", sink, 5, client=impatient)
    assert given[0] == given[1] == values(0, 3)
    assert sink.times_ms[1] - sink.times_ms[0] >= 3_000
    assert len(sink.resumed) == 1
    assert sink.values == values(0, 5)
    assert sink.broken_contract == []


def test_slow_deliveries_that_follow_each_other_at_once_keep_the_partitions(
    kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.stage.SESSION_TIMEOUT_MS", 1_000)
    create(kafka, 1, "deliver.sluggish")
    publish(kafka, "deliver.sluggish", numbered(0, 1))

    def take_long(_: Sequence[Record]) -> None:
        time.sleep(1)
        if len(sink.times_ms) < 4:
            raise Retry("not all of it yet", remedy="go on", after_seconds=0)

    sink = Recording("deliver.sluggish", on_write=take_long)
    # All of them take longer than the group does without a member, each one does not.
    run_until(kafka, "sluggish", sink, 1, client={"max.poll.interval.ms": "2500"})
    assert len(sink.times_ms) == 4
    assert len(sink.resumed) == 1
    assert sink.broken_contract == []


def test_a_wait_ends_when_the_process_is_stopped(kafka: str) -> None:
    create(kafka, 1, "deliver.stopped")
    publish(kafka, "deliver.stopped", numbered(0, 1))
    stop = threading.Event()

    def refuse(_: Sequence[Record]) -> None:
        stop.set()
        raise Retry("never", remedy="wait", after_seconds=10_000)

    sink = Recording("deliver.stopped", on_write=refuse)
    run_to_its_end(deliverer(kafka, "stopped", sink, stop), stop)
    assert committed(kafka, "stopped", "deliver.stopped")[0][0] == 0


def test_a_rebalance_during_a_wait_loses_nothing(
    kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was in hand is dropped, and read again by whoever has its partition then."""
    monkeypatch.setattr("streams.stage.SESSION_TIMEOUT_MS", 1_000)
    create(kafka, 2, "deliver.rebalanced")
    publish(kafka, "deliver.rebalanced", [(n % 2, b"%d" % n) for n in range(10)])
    joined = threading.Event()
    waits = [10_000]

    def refuse_until_joined(_: Sequence[Record]) -> None:
        if not joined.is_set():
            # Only the rebalance ends the first wait.
            raise Retry("not now", remedy="wait", after_seconds=waits.pop() if waits else 0.1)

    second = Recording("deliver.rebalanced", on_write=lambda _: joined.set())
    first = Recording("deliver.rebalanced", on_write=refuse_until_joined)
    stop = threading.Event()
    with running(deliverer(kafka, "rebalanced", first, stop), stop):
        wait_until(lambda: bool(first.times_ms), "the first waits")
        with running(deliverer(kafka, "rebalanced", second, stop, instance="b"), stop):
            wait_until(
                lambda: (
                    sorted(
                        offset
                        for offset, _ in committed(kafka, "rebalanced", first.topics[0]).values()
                    )
                    == [5, 5]
                ),
                "both have confirmed their share",
            )
    assert {*first.values, *second.values} == {b"%d" % n for n in range(10)}
    assert len(first.values) == len(second.values) == 5
    assert first.broken_contract == second.broken_contract == []


def test_co_partitioned_topics_come_to_the_same_process(
    kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.stage.SESSION_TIMEOUT_MS", 1_000)
    create(kafka, 4, "deliver.left", "deliver.right")
    sinks = [Recording("deliver.left", "deliver.right") for _ in range(2)]
    stop = threading.Event()
    with (
        running(deliverer(kafka, "pairs", sinks[0], stop, instance="a"), stop),
        running(deliverer(kafka, "pairs", sinks[1], stop, instance="b"), stop),
    ):
        wait_until(lambda: all(len(sink.owned) == 4 for sink in sinks), "each has its share")
        for sink in sinks:
            left, right = (
                {partition for topic, partition in sink.owned if topic == wanted}
                for wanted in sink.topics
            )
            assert left == right


def test_what_waits_is_given_again_with_what_comes_and_holds_back_only_the_position(
    kafka: str,
) -> None:
    create(kafka, 1, "deliver.waiting")
    publish(kafka, "deliver.waiting", numbered(0, 3))
    waiting = {b"1"}
    sink = Recording("deliver.waiting", waits=lambda record: record.value in waiting)
    stop = threading.Event()
    with running(deliverer(kafka, "waiting", sink, stop, notes_attempts=True), stop):
        wait_until(lambda: b"2" in sink.values, "the first batch is written")
        publish(kafka, "deliver.waiting", numbered(3, 5))
        wait_until(lambda: b"4" in sink.values, "what came later is written")
        offset, noted = committed(kafka, "waiting", "deliver.waiting")[0]
        assert offset == 1
        # Before it was handed over.
        assert json.loads(noted)["through"] == 4
        waiting.clear()
        wait_until(
            lambda: committed(kafka, "waiting", "deliver.waiting")[0] == (5, ""), "all is confirmed"
        )
    given = Counter(sink.values)
    assert given[b"1"] > 1
    assert {value: given[value] for value in values(0, 5) if value != b"1"} == {
        value: 1 for value in values(0, 5) if value != b"1"
    }
    assert sink.broken_contract == []


def test_what_was_said_before_a_restart_is_told_to_whoever_comes_next(kafka: str) -> None:
    """As long as what was said of is not behind the position."""
    create(kafka, 1, "deliver.answered", "deliver.answered.said")
    clients = ConfluentClients({"bootstrap.servers": kafka, "log_level": "0"})
    how = {
        "notes_attempts": True,
        "answers": Answers(clients, "deliver.answered", "deliver.answered.said"),
    }

    def publish_keyed(*numbers: int) -> None:
        clients.writer("answered", "test").write(
            [Outgoing("deliver.answered", b"%d" % n, b"key of %d" % n, 0) for n in numbers]
        )

    def answer(record: Record) -> list[Outgoing]:
        return [Outgoing("deliver.answered.said", b"done", record.key, record.partition)]

    def attempt_of(sink: Recording) -> Attempt | None:
        ((_, attempt),) = sink.resumed
        return attempt

    publish_keyed(0, 1, 2)
    first = Recording("deliver.answered", outgoing=answer, waits=lambda r: r.value == b"0")
    stop = threading.Event()
    with running(deliverer(kafka, "answered", first, stop, **how), stop):
        wait_until(lambda: len(read(kafka, "deliver.answered.said")) == 2, "two are done")
    assert committed(kafka, "answered", "deliver.answered")[0][0] == 0
    second = Recording("deliver.answered", outgoing=answer)
    run_until(kafka, "answered", second, 3, **how)
    attempt = attempt_of(second)
    assert attempt is not None
    assert attempt.answered == {b"key of 1", b"key of 2"}
    publish_keyed(3)
    run_until_it_dies(kafka, "answered", dying_sink("deliver.answered"), **how)
    third = Recording("deliver.answered", outgoing=answer)
    run_until(kafka, "answered", third, 1, **how)
    attempt = attempt_of(third)
    assert attempt is not None
    assert attempt.answered == set()


def test_a_sink_that_is_to_linger_for_no_time_still_gets_what_comes(kafka: str) -> None:
    create(kafka, 1, "deliver.hasty")
    publish(kafka, "deliver.hasty", numbered(0, 3))
    sink = Recording("deliver.hasty")
    run_until(kafka, "hasty", sink, 3, linger_ms=0)
    assert sink.values == values(0, 3)


def test_what_is_ahead_is_not_read_until_others_have_caught_up(kafka: str) -> None:
    create(kafka, 1, "deliver.fast", "deliver.slow")
    publish(kafka, "deliver.fast", numbered(0, 4))
    sink = Recording("deliver.fast", "deliver.slow")
    sink.held_back = frozenset({("deliver.fast", 0)})
    stop = threading.Event()
    with running(deliverer(kafka, "held", sink, stop, batch_max=2), stop):
        wait_until(lambda: len(sink.values) == 2, "the first batch is written")
        publish(kafka, "deliver.slow", [(0, b"slow"), (0, b"slow")])
        wait_until(lambda: len(sink.values) == 4, "the other topic is read")
        assert sink.values[2:] == [b"slow", b"slow"]
        sink.held_back = frozenset()
        publish(kafka, "deliver.slow", [(0, b"slow")])
        wait_until(lambda: len(sink.values) == 7, "the rest is read")
    assert [value for value in sink.values if value != b"slow"] == values(0, 4)
    assert sink.broken_contract == []


def test_what_a_sink_says_is_published_where_it_says_before_the_positions_move(
    kafka: str,
) -> None:
    create(kafka, 1, "deliver.said")
    create(kafka, 3, "deliver.answers")
    publish(kafka, "deliver.said", numbered(0, 3))

    def answer(record: Record) -> list[Outgoing]:
        headers = (("of", b"%d" % record.offset),)
        value = record.value
        return [Outgoing("deliver.answers", value, b"key", record.offset % 3, headers)]

    run_until(kafka, "said", Recording("deliver.said", outgoing=answer), 3)
    answers = read(kafka, "deliver.answers")
    assert [(a.partition, a.key, a.value, a.headers) for a in answers] == [
        (number, b"key", b"%d" % number, (("of", b"%d" % number),)) for number in range(3)
    ]


def test_what_cannot_be_published_is_not_confirmed(kafka: str) -> None:
    create(kafka, 1, "deliver.mute")
    publish(kafka, "deliver.mute", numbered(0, 3))
    sink = Recording("deliver.mute", outgoing=lambda _: [Outgoing("deliver.no-such-topic", b"")])
    stop = threading.Event()
    with pytest.raises(Stop, match="A topic of the catalogue does not exist"):
        run_to_its_end(deliverer(kafka, "mute", sink, stop), stop)
    assert committed(kafka, "mute", "deliver.mute")[0][0] == 0


def test_a_sink_that_asks_for_a_person_ends_the_process(kafka: str) -> None:
    create(kafka, 1, "deliver.person")
    publish(kafka, "deliver.person", numbered(0, 3))

    def ask(_: Sequence[Record]) -> None:
        raise Stop("the key is wrong", remedy="get another key")

    stop = threading.Event()
    with pytest.raises(Stop, match="get another key"):
        run_to_its_end(
            deliverer(kafka, "person", Recording("deliver.person", on_write=ask), stop), stop
        )
    assert committed(kafka, "person", "deliver.person")[0][0] == 0


def test_records_that_retention_took_before_they_were_read_stop_the_sink(kafka: str) -> None:
    create(kafka, 1, "deliver.overrun")
    publish(kafka, "deliver.overrun", numbered(0, 3))
    run_until(kafka, "overrun", Recording("deliver.overrun"), 3)
    publish(kafka, "deliver.overrun", numbered(3, 9))
    admin = AdminClient({"bootstrap.servers": kafka})
    for deleted in admin.delete_records([TopicPartition("deliver.overrun", 0, 6)]).values():
        deleted.result(WAIT_SECONDS_MAX)
    late, stop = Recording("deliver.overrun"), threading.Event()
    with pytest.raises(Stop, match="deleted by retention"):
        run_to_its_end(deliverer(kafka, "overrun", late, stop), stop)
    assert late.values == []
    assert committed(kafka, "overrun", "deliver.overrun")[0][0] == 3


def test_a_position_with_a_note_that_is_not_ours_stops_the_sink(kafka: str) -> None:
    create(kafka, 1, "deliver.garbled")
    publish(kafka, "deliver.garbled", numbered(0, 3))
    set_position(kafka, "garbled", "deliver.garbled", 0, '{"through": 1}')
    sink, stop = Recording("deliver.garbled"), threading.Event()
    with pytest.raises(Stop, match=r"offset of deliver\.garbled-0 cannot be read"):
        run_to_its_end(deliverer(kafka, "garbled", sink, stop), stop)
    assert sink.values == []


def test_a_missing_topic_stops_the_sink_with_how_to_create_it(kafka: str) -> None:
    stop = threading.Event()
    with pytest.raises(Stop, match="A topic of the catalogue does not exist"):
        run_to_its_end(deliverer(kafka, "absent", Recording("deliver.absent"), stop), stop)


def test_a_sink_that_says_nothing_needs_no_right_to_write(guarded: GuardedKafka) -> None:
    create(guarded.address, 1, "deliver.quiet")
    publish(guarded.address, "deliver.quiet", numbered(0, 5))
    guarded.allow("reader", ("topic", "deliver.quiet", "read"), ("group", "meterline.", "read"))
    # Slowly, as a client is told later what it may not.
    sink = Recording("deliver.quiet", on_write=lambda _: time.sleep(0.3))
    run_until(guarded.address, "quiet", sink, 5, batch_max=1, client=guarded.login("reader"))
    assert sink.values == values(0, 5)


def test_a_sink_that_may_not_write_what_it_says_stops(guarded: GuardedKafka) -> None:
    create(guarded.address, 1, "deliver.denied", "deliver.said")
    publish(guarded.address, "deliver.denied", numbered(0, 1))
    guarded.allow("reader", ("topic", "deliver.denied", "read"), ("group", "meterline.", "read"))
    guarded.allow("reader", ("topic", "deliver.said", "describe"))
    sink = Recording("deliver.denied", outgoing=lambda _: [Outgoing("deliver.said", b"1")])
    stop = threading.Event()
    denied = deliverer(guarded.address, "denied", sink, stop, client=guarded.login("reader"))
    with pytest.raises(Stop, match="may write to no topic"):
        run_to_its_end(denied, stop)


def test_a_sink_lives_through_the_death_of_the_broker(
    broker: LocalKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "_PAUSE_SECONDS", 0.2)
    create(broker.address, 1, "deliver.outage")
    sink = Recording("deliver.outage")
    stop = threading.Event()
    with running(deliverer(broker.address, "outage", sink, stop, notes_attempts=True), stop):
        publish(broker.address, "deliver.outage", numbered(0, 500))
        wait_until(lambda: len(sink.values) > 0, "something is written")
        broker.kill()
        broker.start()
        publish(broker.address, "deliver.outage", numbered(500, 1_000))
        wait_until(
            lambda: committed(broker.address, "outage", "deliver.outage")[0] == (1_000, ""),
            "all is confirmed",
        )
    assert set(sink.values) == set(values(0, 1_000))
    assert sink.broken_contract == []
