"""The transactional shell on a real broker: what it cannot go on from stops it, with a remedy."""

from __future__ import annotations

import threading

import pytest

from pipeline.errors import Stop
from streams import session
from tests.streams.on_kafka import (
    committed,
    create,
    publish,
    running,
    set_position,
    wait_until,
)
from tests.streams.summing import Numbers, Summing
from tests.streams.transacting import (
    delete_before,
    run_one_by_one,
    run_to_its_end,
    run_until_done,
    transactor,
)


def test_records_that_retention_took_before_they_were_read_stop_the_stage(kafka: str) -> None:
    numbers = Numbers(kafka, stage := Summing("overrun"), partitions=1)
    numbers.send(5)
    run_until_done(kafka, stage, numbers)
    numbers.send(10)
    delete_before(kafka, stage.input_topic, 9)
    what = r"deleted by retention.*\(overrun\.in 0 has offsets from 9 to before 15, and not 5\)"
    with pytest.raises(Stop, match=what) as stop:
        run_to_its_end(kafka, stage)
    assert "lengthen the retention" in stop.value.remedy
    assert numbers.positions() == [5]


def test_a_stage_goes_on_behind_what_retention_took_if_a_person_says_so(
    kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_STATE_SECONDS", 0.5)
    numbers = Numbers(kafka, stage := Summing("given-up"), partitions=1)
    numbers.send(5)
    run_until_done(kafka, stage, numbers)
    numbers.send(10)
    delete_before(kafka, stage.input_topic, 9)
    set_position(kafka, stage.name, stage.input_topic, 9)
    for _ in range(2):
        run_until_done(kafka, stage, numbers)
        numbers.send(1)
    batches = numbers.written()[0]
    counted = [*range(5), *range(9, 16)]
    assert [offset for offsets, _ in batches for offset in offsets] == counted
    assert batches[-1][1] == sum(7 * number + 1 for number in counted)


def test_a_position_behind_records_that_are_left_stops_the_stage(
    kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_STATE_SECONDS", 0.5)
    numbers = Numbers(kafka, stage := Summing("set-too-far"), partitions=1)
    numbers.send(5)
    run_until_done(kafka, stage, numbers)
    numbers.send(10)
    delete_before(kafka, stage.input_topic, 9)
    set_position(kafka, stage.name, stage.input_topic, 10)
    with pytest.raises(Stop, match=r"ends at 5, but its offsets are committed up to 10") as stop:
        run_to_its_end(kafka, stage)
    assert "If somebody set the offsets" in stop.value.remedy


def test_state_that_lost_what_was_counted_stops_the_stage_though_its_input_is_deleted(
    kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_STATE_SECONDS", 0.5)
    numbers = Numbers(kafka, stage := Summing("amnesiac"), partitions=1)
    numbers.send(5)
    run_until_done(kafka, stage, numbers)
    _, note = committed(kafka, stage.name, stage.input_topic)[0]
    numbers.send(10)
    delete_before(kafka, stage.input_topic, 9)
    set_position(kafka, stage.name, stage.input_topic, 9, note)
    with pytest.raises(Stop, match=r"ends at 5, but its offsets are committed up to 9"):
        run_to_its_end(kafka, stage)


def test_state_that_was_cut_off_in_front_stops_the_stage(kafka: str) -> None:
    """What is left of a changelog is a state as well, but a wrong one."""
    stage = Summing("beheaded")
    numbers = Numbers(kafka, stage, partitions=1)
    run_one_by_one(kafka, stage, numbers, 3)
    assert stage.state_topic is not None
    delete_before(kafka, stage.state_topic, 2)
    numbers.send(1)
    with pytest.raises(Stop, match="deleted by retention"):
        run_to_its_end(kafka, stage)
    assert numbers.positions() == [3]


def test_state_that_ends_before_its_offsets_stops_the_stage(
    kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_STATE_SECONDS", 0.5)
    numbers = Numbers(kafka, stage := Summing("stateless", has_state=False), partitions=1)
    create(kafka, 1, "stateless.state")
    numbers.send(5)
    run_until_done(kafka, stage, numbers)
    numbers.send(5)
    with pytest.raises(Stop, match=r"is not complete, but its offsets are committed up to 5"):
        run_to_its_end(kafka, Summing("stateless"))


def test_a_position_with_a_note_that_is_not_ours_stops_the_stage(kafka: str) -> None:
    numbers = Numbers(kafka, stage := Summing("noted"), partitions=1)
    numbers.send(5)
    set_position(kafka, stage.name, stage.input_topic, 0, "garbled")
    with pytest.raises(Stop, match=r"offset of noted\.in-0 cannot be read: 'garbled'"):
        run_to_its_end(kafka, stage)
    assert numbers.written() == [[]]


@pytest.mark.parametrize("missing", ["in", "state", "out"])
def test_a_missing_topic_stops_the_stage_with_how_to_create_it(kafka: str, missing: str) -> None:
    name = f"missing-{missing}"
    there = {"in", "state", "out"} - {missing}
    create(kafka, 1, *(f"{name}.{role}" for role in there))
    if missing != "in":
        publish(kafka, f"{name}.in", [(0, b"1")])
    with pytest.raises(Stop, match="A topic of the catalogue does not exist") as stop:
        run_to_its_end(kafka, Summing(name))
    assert "meterline topics" in stop.value.remedy


def test_state_that_is_not_co_partitioned_stops_the_stage(kafka: str) -> None:
    create(kafka, 2, "uneven.in", "uneven.out")
    create(kafka, 3, "uneven.state")
    with pytest.raises(Stop, match=r"uneven\.in has 2 partitions, but uneven\.state has 3"):
        run_to_its_end(kafka, Summing("uneven"))


def test_an_output_larger_than_its_topic_takes_stops_the_stage(kafka: str) -> None:
    stage = Summing("large", has_state=False)
    create(kafka, 1, stage.input_topic)
    create(kafka, 1, stage.output_topic, **{"max.message.bytes": "100"})
    publish(kafka, stage.input_topic, [(0, b"1")] * 50)
    with pytest.raises(Stop, match="larger than its topic accepts"):
        run_to_its_end(kafka, stage)


def test_of_two_processes_with_the_same_name_one_stops_and_says_so(kafka: str) -> None:
    numbers = Numbers(kafka, Summing("twins"))
    stop = threading.Event()
    twins = [transactor(kafka, Summing("twins"), stop) for _ in range(2)]

    def run_both() -> None:
        with running(twins[0], stop) as first:
            numbers.send(5)
            wait_until(numbers.done, "the first has confirmed all")
            with running(twins[1], stop) as second:
                numbers.send(5)
                wait_until(
                    lambda: first.is_alive() != second.is_alive() and numbers.done(),
                    "one has stopped and the other has confirmed all",
                )

    with pytest.raises(Stop, match="Another process runs as the same instance"):
        run_both()
    numbers.assert_exact()
