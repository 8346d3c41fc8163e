"""What a shard remembers comes back from its changelog as it was."""

from __future__ import annotations

from dataclasses import astuple
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import shard as shard_module
from pipeline.aggregate import Tally
from pipeline.dedupe import Columns
from pipeline.shard import Changed, Shard, TotalKey, parts, restore, segment, snapshot
from schemas.frame import Kind, unseal
from schemas.segment import ID_COLUMNS, TOTAL_COLUMNS
from tests.pipeline.usage_log import TOKENS, core

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
keys = st.tuples(
    st.sampled_from(["m1", "m2"]),
    texts,
    st.sampled_from([0, 1_793_491_200_000]),
    st.none() | st.just(()) | st.tuples(texts) | st.tuples(texts, texts),
)
tallies = st.builds(
    Tally,
    # A sum may outgrow every width.
    st.integers(-(10**60), 10**60),
    st.integers(1, 2**40),
    st.integers(0, 2**62),
    st.integers(0, 2**40),
)
fired = st.sets(st.sampled_from(["50%", "100%", "120000", "-3"]))


def ids(numbers: list[int]) -> Columns:
    high = np.array([number * 7_919 + 2**63 for number in numbers], dtype=np.uint64)
    low = np.array([number * 104_729 << 20 for number in numbers], dtype=np.uint64)
    fingerprints = np.array(numbers, dtype=np.uint32)
    return high, low, fingerprints, np.full(len(numbers), 20_000, dtype=np.uint16)


def remembered(shard: Shard) -> tuple[object, ...]:
    """Everything that decides what comes next."""
    return (
        shard.next_offset,
        shard.watermark_ms,
        shard.since_snapshot,
        shard.documents,
        shard.current,
        sorted(zip(*(column.tolist() for column in shard.ids.entries()), strict=True)),
        {key: astuple(tally) for key, tally in shard.totals.items()},
        shard.fired,
    )


@core(50)
@given(
    st.dictionaries(keys, st.tuples(tallies, fired), max_size=8),
    st.lists(st.integers(1, 1_000), unique=True, max_size=12),
    st.sampled_from([(100, 10_000), (3, 10_000), (1, 10_000), (100, 4)]),
)
def test_a_shard_comes_back_from_segments_and_from_a_snapshot(
    totals: dict[TotalKey, tuple[Tally, set[str]]], numbers: list[int], limits: tuple[int, int]
) -> None:
    shard = Shard(next_offset=5, watermark_ms=77, since_snapshot=3)
    shard.documents[TOKENS.version] = TOKENS
    shard.current = TOKENS.version
    changed = Changed(documents=[TOKENS.version], totals=set(totals))
    for half in (numbers[::2], numbers[1::2]):
        shard.ids.insert(ids(half))
        changed.ids.append(ids(half))
    assert changed.id_count == len(numbers)
    for key, (tally, names) in totals.items():
        shard.totals[key] = tally
        if names:
            shard.fired[key] = names
    with pytest.MonkeyPatch.context() as small:
        small.setattr(shard_module, "_ROWS_MAX", limits[0])
        small.setattr(shard_module, "_TEXT_MAX", limits[1])
        by_segment = [unseal(frame) for frame in segment(shard, changed)]
        by_snapshot = [unseal(frame) for frame in snapshot(shard)]
    assert remembered(restore(by_segment)) == remembered(shard)
    assert remembered(restore(by_snapshot)) == remembered(shard)
    # A snapshot voids what came before it, whatever that was.
    assert remembered(restore([*by_segment, *by_snapshot])) == remembered(shard)
    forgotten = [unseal(frame) for frame in snapshot(Shard(next_offset=9))]
    assert remembered(restore([*by_segment, *forgotten])) == remembered(Shard(next_offset=9))
    for frame in chain(by_segment, by_snapshot):
        assert frame.kind is Kind.SEGMENT
        assert [part.schema for part in frame.parts] == [ID_COLUMNS, TOTAL_COLUMNS]
        assert all(part.num_rows <= limits[0] for part in frame.parts)


def test_a_restored_table_is_as_large_as_it_was() -> None:
    """So neither the restore nor the first step after it lets the table grow."""
    shard = Shard()
    for begin in range(1, 5_001, 500):
        shard.ids.insert(ids(list(range(begin, begin + 500))))
    assert restore(map(unseal, snapshot(shard))).ids.slots == shard.ids.slots > 5_000 / 0.72


def test_a_step_that_changed_nothing_still_says_how_far_it_went() -> None:
    (frame,) = segment(Shard(next_offset=12, watermark_ms=3), Changed())
    assert remembered(restore([unseal(frame)])) == remembered(Shard(next_offset=12, watermark_ms=3))


def test_a_changelog_without_records_is_an_empty_shard() -> None:
    assert remembered(restore([])) == remembered(Shard())


def test_totals_with_long_names_are_spread_over_records_that_the_broker_takes() -> None:
    shard = Shard()
    changed = Changed()
    for number in range(40):
        key = ("m1", f"{number:02d}" + "c" * 500_000, 0, ("g" * 500_000,))
        shard.totals[key] = Tally(1, 1, 0, 0)
        changed.totals.add(key)
    frames = list(segment(shard, changed))
    assert max(map(len, frames)) < 8 * 1024 * 1024
    assert restore(map(unseal, frames)).totals.keys() == shard.totals.keys()


@core(60)
@given(st.lists(keys, max_size=20), st.integers(1, 5))
def test_runs_of_totals_keep_their_order_and_none_is_lost(
    wanted: list[TotalKey], rows_max: int
) -> None:
    with pytest.MonkeyPatch.context() as small:
        small.setattr(shard_module, "_ROWS_MAX", rows_max)
        runs = list(parts(wanted))
    assert list(chain(*runs)) == wanted
    assert all(len(run) <= rows_max for run in runs)
    assert len(runs) == max(1, -(-len(wanted) // rows_max))
