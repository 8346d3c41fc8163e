"""Shards that are counted side by side write what each of them writes alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import tally as tally_module
from pipeline.errors import Stop
from pipeline.intake import Intake
from pipeline.record import Outgoing
from pipeline.route import Router
from pipeline.shard import Restore, Shard
from pipeline.tally import Tally
from schemas import topics
from schemas.definitions import Definitions
from schemas.frame import Frame
from tests.pipeline.brute_force import Document, Usage
from tests.pipeline.shard_log import arriving
from tests.pipeline.test_shard import remembered
from tests.pipeline.test_tally_any_log import AFTER, BEFORE, cuts, streams
from tests.pipeline.usage_log import core, frame_of, pieces

SHARDS = 3

Log = list[tuple[int, Frame]]


def logs_of(phases: Sequence[tuple[Document, Sequence[Usage]]], data: st.DataObject) -> list[Log]:
    """The log of each shard, with packs of any size."""
    logs: list[Log] = [[] for _ in range(SHARDS)]
    begin = 0
    for document, events in phases:
        cutter = Intake(Definitions.model_validate(document), SHARDS)
        written: list[Outgoing] = cutter.announce()
        records = arriving(events, begin)
        begin += len(events)
        for piece in pieces(len(records), data.draw(cuts)):
            written += cutter.step(records[piece])
        for each in written:
            log = logs[each.partition or 0]
            log.append((len(log), frame_of(each)))
    return logs


def said(outgoing: Sequence[Outgoing]) -> dict[object, list[object]]:
    """What was written, in the order of each partition; alerts go by customer.

    Totals that one step changed stand in the order of the table that they lie in, which others may
    share; so neither that order nor their places there are compared.
    """
    found: dict[object, list[object]] = {}
    for each in outgoing:
        if each.topic == topics.ALERTS.name:
            found.setdefault(each.key, []).append(each.value)
            continue
        frame = frame_of(each)
        rows = [
            sorted(({**row, "row": None} for row in part.to_pylist()), key=repr)
            for part in frame.parts
        ]
        found.setdefault((each.topic, each.partition), []).append((frame.header, rows))
    return found


def restored(outgoing: Sequence[Outgoing], shard: int) -> Shard:
    """A shard from the last snapshot of it that is complete, and what was written since."""
    place = (topics.TALLY_STATE.name, shard)
    changelog = [each for each in outgoing if (each.topic, each.partition) == place]
    anchor = begun = 0
    for index, each in enumerate(changelog):
        begun = index if each.begins else begun
        anchor = begun if each.completes else anchor
    return Restore(map(frame_of, changelog[anchor:])).shard()


def count(logs: list[Log], data: st.DataObject) -> tuple[list[Outgoing], list[Outgoing]]:
    """Count all in steps of any size: with all shards side by side, and each of them alone.

    Side by side, shards come and go between steps.
    """
    together, alone = Tally(SHARDS), [Tally() for _ in range(SHARDS)]
    for shard in range(SHARDS):
        together.add(shard, Shard())
        alone[shard].add(shard, Shard())
    side_by_side: list[Outgoing] = []
    one_by_one: list[Outgoing] = []
    while any(logs):
        step: dict[int, Log] = {}
        for shard, log in enumerate(logs):
            count = len(log) - data.draw(st.integers(0, len(log)))
            if count:
                step[shard], log[:count] = log[:count], []
                one_by_one += alone[shard].step({shard: step[shard]})
        if step:
            side_by_side += together.step(step)
        for shard in data.draw(st.lists(st.integers(0, SHARDS - 1), max_size=2)):
            together.drop(shard)
            together.add(shard, restored(side_by_side, shard))
    return side_by_side, one_by_one


@core(75)
@given(streams(), streams(), st.data())
def test_shards_come_and_go_and_each_writes_what_it_writes_alone(
    first: list[Usage], second: list[Usage], data: st.DataObject
) -> None:
    side_by_side, one_by_one = count(logs_of([(BEFORE, first), (AFTER, second)], data), data)
    assert said(side_by_side) == said(one_by_one)


@core(50)
@given(streams(), streams(), st.data())
def test_shards_come_back_from_snapshots_that_were_written_side_by_side(
    first: list[Usage], second: list[Usage], data: st.DataObject
) -> None:
    """Pieces end elsewhere in a common table, so only what follows from them is compared."""
    logs = logs_of([(BEFORE, first), (AFTER, second)], data)
    with pytest.MonkeyPatch.context() as small:
        small.setattr(tally_module, "_SNAPSHOT_IDS", data.draw(st.integers(1, 10)))
        small.setattr(tally_module, "_SEGMENT_IDS", data.draw(st.integers(0, 5)))
        small.setattr(tally_module, "_PIECE_IDS", data.draw(st.sampled_from([1, 2, 5, 10**6])))
        side_by_side, one_by_one = count(logs, data)
    for shard in range(SHARDS):
        ends = [restored(each, shard) for each in (side_by_side, one_by_one)]
        for end in ends:
            end.since_snapshot = 0
        assert remembered(ends[0]) == remembered(ends[1])
    without_state = [
        [each for each in outgoing if each.topic != topics.TALLY_STATE.name]
        for outgoing in (side_by_side, one_by_one)
    ]
    assert said(without_state[0]) == said(without_state[1])


def two_customers() -> tuple[str, str]:
    """Customers of shard 0 and of shard 1."""
    router = Router(SHARDS)
    names = [f"c{number}" for number in range(100)]
    return next(n for n in names if router[n] == 0), next(n for n in names if router[n] == 1)


def log_with(*customers: str) -> Log:
    """A log in which each of `customers` used something, whoever should be in it."""
    cutter = Intake(Definitions.model_validate(BEFORE | {"default_plan": "free"}), 1)
    events = [
        Usage(f"{number}", name, "llm", 1_796_000_000_000_000, 1_796_000_000_000, {"n": 1})
        for number, name in enumerate(customers)
    ]
    written = [*cutter.announce(), *cutter.step(arriving(events))]
    return [(offset, frame_of(each)) for offset, each in enumerate(written)]


@pytest.mark.parametrize("are_known", [False, True])
def test_a_customer_in_the_log_of_another_shard_stops_even_where_she_has_totals(
    are_known: bool,
) -> None:
    ours, theirs = two_customers()
    tally = Tally(SHARDS)
    for shard in range(2):
        tally.add(shard, Shard())
    if are_known:
        tally.step({1: log_with(theirs)})
    with pytest.raises(Stop, match=f"'{theirs}', who belongs to shard 1 of 3") as stop:
        tally.step({0: log_with(ours, theirs)})
    assert "usage.metered-0 at offset 1 to 1" in stop.value.message


def test_definitions_that_only_another_shard_was_told_of_stop() -> None:
    ours, theirs = two_customers()
    tally = Tally(SHARDS)
    for shard in range(2):
        tally.add(shard, Shard())
    tally.step({1: log_with(theirs)})
    with pytest.raises(Stop, match=r"usage\.metered-0 at offset 1 has a pack .* never announced"):
        tally.step({0: log_with(ours)[1:]})
