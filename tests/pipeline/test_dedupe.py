"""The table of identities decides like a dictionary that is asked event by event."""

from __future__ import annotations

import numpy as np
import xxhash
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.dedupe import WALK_END, Columns, IdTable
from schemas.decisions import Status
from tests.pipeline.usage_log import core, pieces

#: (identity, fingerprint, last day, today)
Asked = tuple[int, int, int, int]


def halves(number: int) -> tuple[int, int]:
    """An identity. Every third one shares its low half, and so its home slot, with the next."""
    high = xxhash.xxh3_64_intdigest(b"high%d" % number)
    return high, xxhash.xxh3_64_intdigest(b"low%d" % (number - (number % 3 == 1)))


def columns(batch: list[Asked]) -> tuple[Columns, np.ndarray[tuple[int], np.dtype[np.uint16]]]:
    identities = [halves(number) for number, *_ in batch]
    return (
        np.array([high for high, _ in identities], dtype=np.uint64),
        np.array([low for _, low in identities], dtype=np.uint64),
        np.array([fingerprint for _, fingerprint, *_ in batch], dtype=np.uint32),
        np.array([last for _, _, last, _ in batch], dtype=np.uint16),
    ), np.array([today for *_, today in batch], dtype=np.uint16)


#: More slots than there are.
ALL = 2**62


class Model:
    """What the table must do, one event after the other."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[int, int]] = {}

    def claim(self, asked: Asked) -> Status:
        number, fingerprint, last, today = asked
        known = self.known.get(number)
        if known is None or known[1] < today:
            self.known[number] = fingerprint, last
            return Status.ACCEPTED
        return Status.DUPLICATE if known[0] == fingerprint else Status.CONFLICT

    def forget_before(self, day: int) -> None:
        self.known = {number: said for number, said in self.known.items() if said[1] >= day}

    def entries(self) -> set[tuple[int, int, int, int]]:
        return {(*halves(number), *said) for number, said in self.known.items()}


def all_of(table: IdTable) -> Columns:
    """All identities, by a walk at one go."""
    found, end = table.walk(0, ALL)
    assert end == WALK_END
    return found


def entries(table: IdTable) -> set[tuple[int, ...]]:
    found = list(zip(*(column.tolist() for column in all_of(table)), strict=True))
    assert len(found) == len(table) == len(set(found))
    return set(found)


def asked(identities: int) -> st.SearchStrategy[Asked]:
    days = st.integers(1, 6)
    return st.tuples(st.integers(0, identities), st.integers(0, 1), days, st.integers(0, 6))


batches = st.lists(
    st.integers(1, 6) | st.lists(asked(8), max_size=12) | st.lists(asked(300), max_size=60),
    max_size=8,
)


@core(250)
@given(batches)
# The second copy finds the first expired; the third must be compared with the second.
@example([[(1, 0, 1, 1), (1, 1, 6, 3), (1, 0, 6, 1)]])
@example([[(1, 0, 1, 1), (2, 0, 1, 1)], [(2, 1, 6, 3), (1, 1, 6, 3), (1, 1, 6, 1), (2, 0, 6, 1)]])
def test_any_sequence_of_batches_is_decided_like_event_by_event(
    sequence: list[int | list[Asked]],
) -> None:
    table, model = IdTable(), Model()
    for batch in sequence:
        if isinstance(batch, int):
            table.forget_before(batch)
            table.sweep(ALL)
            model.forget_before(batch)
        else:
            assert table.claim(*columns(batch)).tolist() == [model.claim(each) for each in batch]
        assert entries(table) == model.entries()


@core(100)
@given(st.lists(asked(40), max_size=60), st.lists(st.integers(0, 60), max_size=5))
def test_how_a_sequence_is_cut_into_batches_changes_nothing(
    sequence: list[Asked], cuts: list[int]
) -> None:
    whole = IdTable().claim(*columns(sequence)).tolist()
    table = IdTable()
    parts = [
        status
        for piece in pieces(len(sequence), cuts)
        for status in table.claim(*columns(sequence[piece])).tolist()
    ]
    assert parts == whole


@core(60)
@given(st.lists(asked(300), max_size=80), st.integers(1, 6))
def test_a_table_that_is_restored_from_its_entries_decides_the_same(
    sequence: list[Asked], today: int
) -> None:
    table, restored = IdTable(), IdTable()
    table.claim(*columns(sequence))
    restored.insert(all_of(table))
    again = [(number, 0, 6, today) for number in range(300)]
    assert restored.claim(*columns(again)).tolist() == table.claim(*columns(again)).tolist()


def test_an_identity_that_is_inserted_again_is_replaced() -> None:
    table = IdTable()
    for fingerprint, last in ((1, 3), (2, 9)):
        table.insert(columns([(7, fingerprint, last, 0)])[0])
    assert entries(table) == {(*halves(7), 2, 9)}


def unique(begin: int, end: int, last: int = 10) -> Columns:
    """Identities that look like hashes, because a hash is what they are."""
    generator = np.random.default_rng(begin)
    high, low = generator.integers(0, 2**64, (2, end - begin), dtype=np.uint64)
    numbers = np.arange(begin, end).astype(np.uint32)
    return high, low, numbers, np.full(end - begin, last, dtype=np.uint16)


def days(count: int, day: int) -> np.ndarray[tuple[int], np.dtype[np.uint16]]:
    return np.full(count, day, dtype=np.uint16)


def test_growing_keeps_every_identity_within_32_bytes_each() -> None:
    table = IdTable()
    for begin in range(0, 200_000, 1_000):
        assert not table.claim(unique(begin, begin + 1_000), days(1_000, 1)).any()
        assert len(table) == begin + 1_000
        assert begin < 50_000 or table.bytes_held / len(table) <= 32
    for begin in range(0, 200_000, 1_000):
        again = table.claim(unique(begin, begin + 1_000), days(1_000, 1))
        assert set(again.tolist()) == {Status.DUPLICATE}


def test_a_table_that_is_made_as_large_as_another_hardly_grows() -> None:
    table, restored = IdTable(), IdTable()
    table.claim(unique(0, 3_000), days(3_000, 1))
    for begin in range(3_000, 53_000, 1_000):
        table.insert(unique(begin, begin + 1_000))
    restored.claim(unique(0, 3_000), days(3_000, 1))
    restored.grow(table.slots)
    held = restored.bytes_held
    assert abs(held / table.bytes_held - 1) < 0.02
    for begin in range(3_000, 53_000, 1_000):
        restored.insert(unique(begin, begin + 1_000))
    assert restored.bytes_held <= held * 1.02
    assert sorted(all_of(restored)[1]) == sorted(all_of(table)[1])
    restored.grow(10)
    assert restored.bytes_held <= held * 1.02


def test_no_batch_lets_much_of_the_table_grow() -> None:
    """A part grows at a time, so that no batch waits for all of them."""
    table = IdTable()
    for begin in range(0, 300_000, 1_000):
        slots = table.slots
        table.insert(unique(begin, begin + 1_000))
        assert begin < 20_000 or table.slots < 1.1 * slots


def test_forgetting_gives_memory_back_and_keeps_the_rest() -> None:
    table = IdTable()
    table.claim(unique(0, 50_000, last=3), days(50_000, 1))
    table.claim(unique(50_000, 51_000, last=9), days(1_000, 1))
    held = table.bytes_held
    table.forget_before(3)
    table.sweep(ALL)
    assert len(table) == 51_000
    table.forget_before(4)
    table.sweep(ALL)
    assert len(table) == 1_000
    assert table.bytes_held < held / 10
    kept = table.claim(unique(50_000, 51_000), days(1_000, 4))
    assert set(kept.tolist()) == {Status.DUPLICATE}
    gone = table.claim(unique(0, 50_000), days(50_000, 4))
    assert set(gone.tolist()) == {Status.ACCEPTED}


def test_a_sweep_looks_at_a_part_at_a_time_and_forgets_all_in_the_end() -> None:
    table = IdTable()
    table.claim(unique(0, 50_000, last=3), days(50_000, 1))
    table.forget_before(4)
    counts = [len(table)]
    for _ in range(64):
        table.sweep(1)
        counts.append(len(table))
    steps = -np.diff(counts)
    assert counts[-1] == 0
    assert steps.min() > 0
    assert steps.max() < 2_000


def test_what_expires_while_a_sweep_is_under_way_is_forgotten_before_it_comes_round_again() -> None:
    """A log may go on by a day with each batch, and no part may be left out for ever."""
    table = IdTable()
    for day in range(1, 500):
        claimed = unique(100 * day, 100 * day + 100, last=day)
        assert set(table.claim(claimed, days(100, day)).tolist()) == {Status.ACCEPTED}
        table.forget_before(day)
        table.sweep(200)
    assert len(table) < 100 * 64


def test_an_empty_batch_is_decided_at_once() -> None:
    assert IdTable().claim(*columns([])).tolist() == []


@core(100)
@given(
    st.integers(0, 3_000),
    st.lists(st.tuples(st.integers(1, 700), st.integers(0, 400)), max_size=30),
)
@example(3_000, [(1, 300)] * 200)
def test_a_walk_finds_all_that_was_there_however_the_table_grows_meanwhile(
    before: int, pieces_of_walk: list[tuple[int, int]]
) -> None:
    table = IdTable()

    def claim(numbers: range) -> None:
        table.claim(*columns([(number, 7, 20_000, 19_000) for number in numbers]))

    def pairs(found: Columns) -> set[tuple[int, int]]:
        return set(zip(found[0].tolist(), found[1].tolist(), strict=True))

    claim(range(before))
    found: set[tuple[int, int]] = set()
    at, count = 0, before
    for wished, claimed in [*pieces_of_walk, (10**9, 0)]:
        if at < WALK_END:
            piece, at = table.walk(at, wished)
            found |= pairs(piece)
            claim(range(count, count + claimed))
            count += claimed
    assert at == WALK_END
    assert {halves(number) for number in range(before)} <= found
    assert found <= {halves(number) for number in range(count)}


def test_a_piece_of_a_walk_is_about_as_large_as_was_wished() -> None:
    table = IdTable()
    table.claim(*columns([(number, 7, 20_000, 19_000) for number in range(20_000)]))
    at, sizes = 0, []
    while at < WALK_END:
        piece, at = table.walk(at, 1_000)
        sizes.append(len(piece[0]))
    assert 20 <= len(sizes) <= 22
    assert max(sizes) < 1_100
