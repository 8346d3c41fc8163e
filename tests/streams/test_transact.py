"""The transactional shell on a real broker: all of a batch or nothing of it, whatever happens."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from pipeline.record import Record, Records
from streams import confluent_calls, confluent_writers
from streams.confluent import ConfluentClients
from streams.session import Session
from streams.stage import group_of
from tests.streams import on_kafka
from tests.streams.on_kafka import WAIT_SECONDS_MAX, committed, described, running, wait_until
from tests.streams.summing import Numbers, Summing
from tests.streams.transacting import run_one_by_one, run_to_its_end, run_until_done, transactor


class Faults:
    """Once, at one step of one transaction, calls `look` and raises."""

    def __init__(self) -> None:
        self.at = ""
        self.look: Callable[[], None] = lambda: None

    def pass_by(self, step: str) -> None:
        if step == self.at:
            self.at = ""
            self.look()
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"planted {step}"))


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    """Faults of the shell's producer, none at first."""
    planted = Faults()

    class Faulty(confluent_kafka.Producer):
        def begin_transaction(self) -> None:
            planted.pass_by("before the transaction begins")
            super().begin_transaction()
            planted.pass_by("before the outputs")

        def flush(self, *seconds: Any) -> int:
            left = super().flush(*seconds)
            planted.pass_by("before the offsets")
            return left

        def send_offsets_to_transaction(self, *offsets: Any) -> None:
            super().send_offsets_to_transaction(*offsets)
            planted.pass_by("before the commit")

        def commit_transaction(self, *seconds: Any) -> None:
            super().commit_transaction(*seconds)
            planted.pass_by("after the commit")

    monkeypatch.setattr(confluent_writers, "Producer", Faulty)
    return planted


@pytest.mark.parametrize(
    "step",
    [
        "before the transaction begins",
        "before the outputs",
        "before the offsets",
        "before the commit",
        "after the commit",
    ],
)
def test_outputs_state_and_offsets_appear_together_or_not_at_all(
    kafka: str, faults: Faults, step: str
) -> None:
    """Also after a commit whose answer was lost: it happened, and is not repeated."""
    stage = Summing(f"together-{step.replace(' ', '-')}")
    numbers = Numbers(kafka, stage)
    stop = threading.Event()
    seen: list[tuple[bool, list[list[tuple[list[int], int]]], list[int]]] = []
    faults.look = lambda: seen.append((numbers.done(), numbers.written(), numbers.positions()))
    with running(transactor(kafka, stage, stop), stop):
        numbers.send(10)
        wait_until(numbers.done, "the first numbers are confirmed")
        before = numbers.written()
        faults.at = step
        numbers.send(10)
        wait_until(lambda: bool(seen), "the fault has happened")
        wait_until(numbers.done, "the session after the fault has caught up")
    _, written, positions = seen[0]
    if step == "after the commit":
        assert written != before
        assert [max(offsets[-1][0]) + 1 for offsets in written] == positions
    else:
        assert written == before
        assert positions == [10, 10]
    numbers.assert_exact()


def test_a_client_that_hangs_is_given_up(
    kafka: str, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the client library does when a group's coordinator came back after its death."""
    monkeypatch.setattr(confluent_calls, "TRANSACTION_TIMEOUT_MS", 2_000)
    numbers = Numbers(kafka, stage := Summing("hanging"))
    for_ever, stop = threading.Event(), threading.Event()

    def hang() -> None:
        for_ever.wait()

    faults.look = hang
    faults.at = "before the commit"
    numbers.send(5)
    with running(transactor(kafka, stage, stop), stop):
        wait_until(numbers.done, "the next session has confirmed all")
    assert faults.at == ""
    for_ever.set()
    numbers.assert_exact()


def test_a_step_that_fails_ends_the_process_and_leaves_nothing_behind(kafka: str) -> None:
    def fail(_: object) -> None:
        raise ArithmeticError("planted")

    numbers = Numbers(kafka, stage := Summing("failing"))
    numbers.send(5)
    with pytest.raises(ArithmeticError):
        run_to_its_end(kafka, Summing("failing", before_step=fail))
    assert numbers.written() == [[], []]
    assert numbers.positions() == [0, 0]
    run_until_done(kafka, stage, numbers)
    numbers.assert_exact()


def test_a_process_that_joins_and_leaves_takes_shards_along(
    kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have worked, nothing is lost or doubled, and the shards come back."""
    monkeypatch.setattr("streams.stage.SESSION_TIMEOUT_MS", 1_000)
    stages = {name: Summing("joining") for name in "ab"}
    numbers = Numbers(kafka, stages["a"], partitions=4)
    stops = {name: threading.Event() for name in "ab"}
    with running(transactor(kafka, stages["a"], stops["a"], "a"), stops["a"]):
        numbers.send(5)
        wait_until(numbers.done, "one process has confirmed all")
        with running(transactor(kafka, stages["b"], stops["b"], "b"), stops["b"]):
            while len(stages["b"].restored) < 2:
                numbers.send(1)
            numbers.send(20)
            wait_until(numbers.done, "both have confirmed all")
        numbers.send(20)
        wait_until(numbers.done, "the one that is left has confirmed all")
    # Each share was restored once by whom it came to; what stayed with its owner was not.
    assert [p for p, _ in stages["b"].restored] == [2, 3]
    assert [p for p, _ in stages["a"].restored] == [0, 1, 2, 3, 2, 3]
    numbers.assert_exact()


def test_a_takeover_waits_until_the_former_owner_s_transaction_is_decided(kafka: str) -> None:
    stage = Summing("undecided", has_state=False)
    numbers = Numbers(kafka, stage, partitions=1)
    numbers.send(10)
    former = confluent_kafka.Producer({"bootstrap.servers": kafka, "transactional.id": "former"})
    former.init_transactions(WAIT_SECONDS_MAX)
    former.begin_transaction()
    nobody = Consumer({"bootstrap.servers": kafka, "group.id": group_of(stage.name)})
    former.send_offsets_to_transaction(
        [TopicPartition(stage.input_topic, 0, 4)],
        nobody.consumer_group_metadata(),
        WAIT_SECONDS_MAX,
    )
    nobody.close()
    stop = threading.Event()
    with running(transactor(kafka, stage, stop), stop) as thread:
        thread.join(3)
        assert numbers.written() == [[]]
        former.commit_transaction(WAIT_SECONDS_MAX)
        wait_until(numbers.done, "the rest is confirmed")
    assert [offset for offsets, _ in numbers.written()[0] for offset in offsets] == [
        4,
        5,
        6,
        7,
        8,
        9,
    ]


def test_who_is_no_member_of_the_group_commits_nothing(kafka: str) -> None:
    """An empty group would take its offsets: the shell itself must not send them."""
    stage = Summing("stranger", has_state=False)
    numbers = Numbers(kafka, stage, partitions=1)
    numbers.send(1)
    with Session(stage, ConfluentClients({"bootstrap.servers": kafka}), "a") as stranger:
        stranger._writer.fence()
        part = Records([Record(stage.input_topic, 0, 0, 0, None, b"1")])
        with pytest.raises(KafkaException, match="UNKNOWN_MEMBER_ID"):
            stranger.transact(part, stage.step(part))
    assert numbers.written() == [[]]
    assert numbers.positions() == [0]


def test_a_session_that_ends_while_it_is_given_shards_ends_quietly(kafka: str) -> None:
    stage = Summing("short")
    Numbers(kafka, stage, partitions=1)
    admin = AdminClient({"bootstrap.servers": kafka})
    with Session(stage, ConfluentClients({"bootstrap.servers": kafka}), "a") as short:
        short.open()
        wait_until(lambda: has_shards(admin, stage.name), "the group has given it its shards")


def has_shards(admin: AdminClient, stage: str) -> bool:
    members = described(admin, stage).members
    return any(member.assignment.topic_partitions for member in members)


def test_a_restart_restores_from_the_anchor_that_was_committed_with_the_offsets(
    kafka: str,
) -> None:
    stage = Summing("anchored", snapshot_every=4)
    numbers = Numbers(kafka, stage, partitions=1)
    run_one_by_one(kafka, stage, numbers, 10)
    _, metadata = committed(kafka, stage.name, stage.input_topic)[0]
    again = Summing("anchored", snapshot_every=4)
    numbers.send(1)
    run_until_done(kafka, again, numbers)
    numbers.assert_exact()
    (_, offsets), *_ = again.restored
    assert offsets[0] == int(metadata) > 0
    # The second snapshot and the two segments after it; each transaction leaves a marker as well.
    assert len(offsets) == 3
    # Without a new snapshot the old anchor holds on.
    assert committed(kafka, stage.name, stage.input_topic)[0] == (11, metadata)


def test_a_snapshot_that_is_not_complete_yet_moves_no_anchor(kafka: str) -> None:
    stage = Summing("spread", snapshot_every=4, spread=True)
    numbers = Numbers(kafka, stage, partitions=1)
    anchors = []
    stop = threading.Event()
    with running(transactor(kafka, stage, stop), stop):
        for _ in range(9):
            numbers.send(1)
            wait_until(numbers.done, "the number is confirmed")
            anchors.append(committed(kafka, stage.name, stage.input_topic)[0][1])
    # Begun with the fourth addition and the eighth, and complete with the ones after them.
    assert anchors[:4] == ["0"] * 4
    assert anchors[4:8] == [anchors[4]] * 4
    begins = [
        record.offset
        for record in on_kafka.read(kafka, "spread.state")
        if json.loads(record.value or b"")["next"] in (4, 8)
    ]
    assert [int(anchors[4]), int(anchors[8])] == begins
    numbers.send(1)
    run_until_done(kafka, again := Summing("spread"), numbers)
    numbers.assert_exact()
    (_, offsets), *_ = again.restored
    assert offsets[0] == begins[1]
