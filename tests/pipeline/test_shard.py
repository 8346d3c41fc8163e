"""What a shard remembers comes back from its changelog as it was."""

from __future__ import annotations

from itertools import chain
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import shard as shard_module
from pipeline import total_columns
from pipeline.aggregate import Tally
from pipeline.dedupe import Columns
from pipeline.errors import Stop
from pipeline.shard import Changed, Restore, Shard, segment, snapshot
from pipeline.total_columns import kept
from pipeline.totals import TotalKey, distinct
from schemas.frame import Kind, unseal
from schemas.segment import ID_COLUMNS, TOTAL_COLUMNS
from tests.pipeline.held_totals import held, hold
from tests.pipeline.usage_log import TOKENS, core, pieces

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
tallies = st.builds(
    Tally,
    # A sum may outgrow every width.
    st.integers(-(10**60), 10**60),
    st.integers(1, 2**40),
    st.integers(0, 2**62),
    st.integers(0, 2**40),
)
fired = st.sets(st.sampled_from(["50%", "100%", "120000", "-3"]))
Said = TypeVar("Said")


@st.composite
def totals_of(draw: st.DrawFn, said: st.SearchStrategy[Said]) -> dict[TotalKey, Said]:
    """Totals, each group after the usage over all groups."""
    usages = st.tuples(
        st.sampled_from(["m1", "m2"]), texts, st.sampled_from([0, 1_793_491_200_000])
    )
    groups = st.just(()) | st.tuples(texts) | st.tuples(texts, texts)
    wanted: dict[TotalKey, Said] = {}
    for usage in draw(st.lists(usages, max_size=5)):
        for group in (None, *draw(st.lists(groups, max_size=3))):
            if (*usage, group) not in wanted:
                wanted[*usage, group] = draw(said)
    return wanted


def ids(numbers: list[int]) -> Columns:
    """Identities that look like hashes, because a hash is what they are."""
    high, low = (
        np.array([number * odd % 2**64 for number in numbers], dtype=np.uint64)
        for odd in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F)
    )
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
        sorted(zip(*(column.tolist() for column in shard.ids.walk(0, 2**62)[0]), strict=True)),
        held(shard.totals),
    )


@core(50)
@given(
    totals_of(st.tuples(tallies, fired)),
    st.lists(st.integers(1, 1_000), unique=True, max_size=12),
    st.sampled_from([(100, 10_000), (3, 10_000), (1, 10_000), (100, 4)]),
)
def test_a_shard_comes_back_from_segments_and_from_a_snapshot(
    wanted: dict[TotalKey, tuple[Tally, set[str]]], numbers: list[int], limits: tuple[int, int]
) -> None:
    shard = Shard(next_offset=5, watermark_ms=77, since_snapshot=3)
    shard.documents[TOKENS.version] = TOKENS
    shard.current = TOKENS.version
    hold(shard.totals, wanted)
    changed = Changed(documents=[TOKENS.version])
    for half in (numbers[::2], numbers[1::2]):
        shard.ids.insert(ids(half))
        changed.ids.append(ids(half))
    assert changed.id_count == len(numbers)
    with pytest.MonkeyPatch.context() as small:
        small.setattr(shard_module, "_IDS_MAX", limits[0])
        small.setattr(total_columns, "_ROWS_MAX", limits[0])
        small.setattr(total_columns, "_TEXT_MAX", limits[1])
        changed.totals += kept(shard.totals, np.arange(len(wanted))).parts()
        by_segment = [unseal(frame) for frame in segment(shard, changed)]
        assert remembered(Restore(by_segment).shard()) == remembered(shard)
        by_snapshot = [unseal(frame) for frame in snapshot(shard)]
    assert shard.since_snapshot == 0
    assert remembered(Restore(by_snapshot).shard()) == remembered(shard)
    assert remembered(Restore([*by_segment, *by_snapshot]).shard()) == remembered(shard)
    for frame in chain(by_segment, by_snapshot):
        assert frame.kind is Kind.SEGMENT
        assert [part.schema for part in frame.parts] == [ID_COLUMNS, TOTAL_COLUMNS]
        assert all(part.num_rows <= limits[0] for part in frame.parts)


def test_each_document_that_was_ever_in_force_is_in_a_frame_of_its_own() -> None:
    """So they need not fit into one record together, with which every snapshot would end."""
    shard = Shard(current="v3", documents={f"v{number}": TOKENS for number in range(7)})
    for frames in (snapshot(shard), segment(shard, Changed(documents=[*shard.documents]))):
        opened = [unseal(frame) for frame in frames]
        assert [len(frame.header["definitions"]) for frame in opened] == [1] * 7
        assert Restore(opened).shard().documents == shard.documents


@pytest.mark.parametrize("is_new", [True, False])
def test_totals_that_have_crossed_many_thresholds_are_spread_over_several_frames(
    is_new: bool,
) -> None:
    shard = Shard()
    names = {str(1_000_000 + number) for number in range(100)}
    counted = Tally(0, 1, 0, 0)
    hold(
        shard.totals,
        {("m", f"cus_{number}", 0, None): (counted, names) for number in range(10_000)},
    )
    known = 0 if is_new else len(shard.totals)
    columns = kept(shard.totals, np.arange(len(shard.totals)), known)
    assert max(part.nbytes for part in columns.parts()) < 8 * 1024 * 1024


def test_a_restored_table_is_as_large_as_it_was() -> None:
    """So neither the restore nor the first step after it lets much of the table grow."""
    shard = Shard()
    for begin in range(1, 50_001, 500):
        shard.ids.insert(ids(list(range(begin, begin + 500))))
    restored = Restore(map(unseal, snapshot(shard))).shard().ids
    assert abs(restored.slots / shard.ids.slots - 1) < 0.05


def test_a_step_that_changed_nothing_still_says_how_far_it_went() -> None:
    (frame,) = segment(Shard(next_offset=12, watermark_ms=3), Changed())
    assert remembered(Restore([unseal(frame)]).shard()) == remembered(
        Shard(next_offset=12, watermark_ms=3)
    )


def test_a_changelog_without_records_is_an_empty_shard() -> None:
    assert remembered(Restore().shard()) == remembered(Shard())


def test_totals_with_long_names_are_spread_over_records_that_the_broker_takes() -> None:
    shard = Shard()
    usage = {("m1", f"{number:02d}" + "c" * 500_000, 0, None): None for number in range(20)}
    groups = {(*key[:3], ("g" * 500_000,)): None for key in usage}
    hold(shard.totals, dict.fromkeys([*usage, *groups], (Tally(1, 1, 0, 0), set())))
    frames = list(segment(shard, Changed(totals=[*kept(shard.totals, np.arange(40)).parts()])))
    assert max(map(len, frames)) < 8 * 1024 * 1024
    assert held(Restore(map(unseal, frames)).shard().totals) == held(shard.totals)


@core(60)
@given(totals_of(st.tuples(tallies, fired)), st.data())
def test_totals_come_back_in_the_order_in_which_they_came_into_being(
    wanted: dict[TotalKey, tuple[Tally, set[str]]], data: st.DataObject
) -> None:
    """So a shard that was restored goes on to write the same bytes."""
    shard = Shard()
    frames: list[bytes] = []
    for part in pieces(len(wanted), data.draw(st.lists(st.integers(0, 8), max_size=3))):
        hold(shard.totals, dict(list(wanted.items())[part]))
        again = data.draw(st.lists(st.integers(0, part.stop - 1))) if part.stop else []
        rows = distinct([np.arange(part.start, part.stop), np.array(again, dtype=np.int64)])
        shard.next_offset += 1
        totals = list(kept(shard.totals, rows, part.start).parts())
        frames += segment(shard, Changed(shard.next_offset - 1, totals=totals))
    for restored in (
        Restore(map(unseal, frames)).shard(),
        Restore(map(unseal, snapshot(shard))).shard(),
    ):
        assert list(held(restored.totals)) == list(held(shard.totals)) == list(wanted)
        assert list(snapshot(restored)) == list(snapshot(shard))


@pytest.mark.parametrize(
    ("from_total", "rows", "said"),
    [(2, [0, 1], "never said"), (0, [1], "never said")],
    ids=["totals that were never named", "a total before it"],
)
def test_totals_that_go_on_from_what_is_not_there_stop(
    from_total: int, rows: list[int], said: str
) -> None:
    shard = Shard()
    usages: list[TotalKey] = [("m1", "c1", 0, None), ("m1", "c2", 0, None)]
    hold(shard.totals, dict.fromkeys(usages, (Tally(1, 1, 0, 0), set())))
    totals = list(kept(shard.totals, np.array(rows), from_total).parts())
    frames = segment(shard, Changed(totals=totals))
    with pytest.raises(Stop, match=said) as stop:
        Restore(map(unseal, frames)).shard()
    assert "Restore usage.tally.state" in stop.value.remedy
