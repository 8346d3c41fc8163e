"""Positions are counted once, below a cut, in whatever order their records are read."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.reconcile import OUTCOMES
from pipeline.reconcile_ledger import Positions, Tally, lowest
from schemas.decisions import STATUS_COLUMNS, Status
from schemas.frame import Frame, Kind

#: (partition, offset, status) of events; None is rejected.
Event = tuple[int, int, Status | None]


def pack(events: list[Event]) -> Frame:
    columns = {
        "source_partition": pa.array([event[0] for event in events], pa.int32()),
        "source_offset": pa.array([event[1] for event in events], pa.int64()),
    }
    return Frame(Kind.PACK, {}, (pa.RecordBatch.from_pydict(columns),))


def decisions(offset: int, statuses: list[Status]) -> Frame:
    batch = pa.RecordBatch.from_arrays([pa.array(statuses, pa.uint8())], schema=STATUS_COLUMNS)
    return Frame(Kind.DECISIONS, {"pack_offset": offset}, (batch,))


def taken(positions: Positions, events: list[Event], order: Random) -> None:
    """Let `positions` take what the stages made of `events`, in any order."""
    takes: list[Callable[[], None]] = []
    packed = [event for event in events if event[2] is not None]
    for offset in range(0, len(packed), 3):
        part = packed[offset : offset + 3]
        statuses = [status for _, _, status in part if status is not None]
        takes.append(lambda o=offset, p=part: positions.take_pack(0, o, pack(p)))  # type: ignore[misc]
        takes.append(
            lambda o=offset, s=statuses: positions.take_decisions(0, decisions(o, s))  # type: ignore[misc]
        )
    for partition, offset, status in events:
        takes.append(lambda p=partition, o=offset: positions.take_input(p, o))  # type: ignore[misc]
        if status is None:
            takes.append(lambda p=partition, o=offset: positions.take_rejection(p, o))  # type: ignore[misc]
    order.shuffle(takes)
    for take in takes:
        take()
        if order.random() < 0.2:
            positions.fold()


events_of = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from([None, *Status])), min_size=1, max_size=40
).map(lambda kinds: [(p, offset, status) for offset, (p, status) in enumerate(kinds)])


@settings(deadline=None)
@given(events=events_of, cut=st.integers(0, 40), first=st.integers(0, 40), seed=st.integers())
def test_each_position_between_first_and_cut_is_counted_once(
    events: list[Event], cut: int, first: int, seed: int
) -> None:
    positions = Positions(first=dict.fromkeys(range(3), first))
    positions.advance(dict.fromkeys(range(3), cut))
    taken(positions, [e for e in events if e[1] >= first], Random(seed))
    positions.fold()
    counted = [e for e in events if first <= e[1] < cut]
    for partition in range(3):
        for outcome in OUTCOMES:
            offsets = [
                e[1]
                for e in counted
                if e[0] == partition
                and (e[2].name.lower() if e[2] is not None else "rejected") == outcome
            ]
            found = positions.outcomes.get((partition, outcome), Tally())
            assert found == Tally(len(offsets), sum(offsets))


@settings(deadline=None)
@given(events=events_of, cuts=st.lists(st.integers(0, 41), min_size=1), seed=st.integers())
def test_a_cut_that_moves_counts_the_same_as_one_at_its_end(
    events: list[Event], cuts: list[int], seed: int
) -> None:
    positions = Positions()
    taken(positions, events, Random(seed))
    for cut in cuts:
        positions.advance(dict.fromkeys(range(3), cut))
    assert sum(tally.events for tally in positions.outcomes.values()) == sum(
        event[1] < max(cuts) for event in events
    )


def test_a_pack_without_decisions_has_no_outcome_until_they_come() -> None:
    positions = Positions()
    positions.advance({0: 10})
    positions.take_pack(0, 5, pack([(0, 0, Status.ACCEPTED), (0, 1, Status.ACCEPTED)]))
    positions.take_decisions(0, decisions(5, [Status.ACCEPTED]))
    positions.fold()
    assert not positions.outcomes, "decisions of another length are none"
    positions.take_decisions(0, decisions(5, [Status.ACCEPTED, Status.LATE]))
    positions.fold()
    assert positions.outcomes == {(0, "accepted"): Tally(1, 0), (0, "late"): Tally(1, 1)}


def test_decisions_about_packs_that_were_deleted_are_left_out() -> None:
    positions = Positions(packs_from={0: 6})
    positions.take_decisions(0, decisions(5, [Status.ACCEPTED]))
    positions.take_pack(0, 5, pack([(0, 0, Status.ACCEPTED)]))
    positions.advance({0: 10})
    assert not positions.outcomes


def test_events_of_one_record_are_positions_of_their_own() -> None:
    positions = Positions()
    positions.advance({0: 10})
    columns = {
        "source_partition": pa.array([0, 0], pa.int32()),
        "source_offset": pa.array([5, 5], pa.int64()),
        "source_index": pa.array([0, 2], pa.int32()),
    }
    packed = Frame(Kind.PACK, {}, (pa.RecordBatch.from_pydict(columns),))
    positions.take_pack(0, 1, packed)
    positions.take_decisions(0, decisions(1, [Status.ACCEPTED, Status.ACCEPTED]))
    positions.take_rejection(0, 5, 1)
    positions.take_input(0, 5, events=3)
    positions.fold()
    assert positions.outcomes == {
        (0, "accepted"): Tally(2, 10 + (2 << 48)),
        (0, "rejected"): Tally(1, 5 + (1 << 48)),
    }
    assert positions.input == {0: Tally(3, 15 + (3 << 48))}


def test_the_sum_of_offsets_stays_within_64_bits() -> None:
    assert Tally(1, 2**64 - 1).plus(1, 3) == Tally(2, 2)


def test_a_bound_is_the_lowest_offset() -> None:
    bounds = {0: 5}
    lowest(bounds, [0, 1, 0], [7, 3, 4])
    assert bounds == {0: 4, 1: 3}
