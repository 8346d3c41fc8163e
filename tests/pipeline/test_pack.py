"""Packs carry every column exactly, stay small, and keep each shard's order."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import pack as packing
from pipeline.pack import BYTES_MAX, EVENTS_MAX, EventColumns, Pack, Quantities, cut
from pipeline.periods import DAY_MS
from schemas.frame import Kind, unseal
from schemas.pack import FIXED, SCALE, value_column
from schemas.quantity import nanos
from tests.pipeline.usage_log import core

whole = st.integers(-(10**37), 10**37)
small = st.integers(-1_000, 1_000)
scaled = st.integers(-(10**12), 10**12).map(lambda units: Decimal(units).scaleb(-9))
#: As `Reading.quantities` gives them: integers, or decimals with places.
quantities = st.one_of(
    small,
    whole,
    st.sampled_from([2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 9_223_372_036, 9_223_372_037]),
    scaled.map(lambda number: int(number) if number == int(number) else number),
    st.sampled_from([Decimal("12345678901234567890123456789.123456789"), Decimal("1e-9")]),
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)


def columns(
    values: list[int | Decimal | None],
    texts: list[str | None] | None = None,
    originals: list[bytes] | None = None,
) -> EventColumns:
    """Columns of as many events as there are values."""
    count = len(values)
    numbers = np.arange(count)
    return EventColumns(
        rows=numbers,
        source_partitions=(numbers % 3).astype(np.int32),
        source_offsets=numbers,
        source_indices=(numbers % 2).astype(np.int32),
        received_ms=numbers + 1_000,
        times_ns=numbers * 10**9,
        id_high=numbers.astype(np.uint64) + np.uint64(2**63),
        id_low=numbers.astype(np.uint64),
        fingerprints=numbers.astype(np.uint32),
        types=pa.array([f"type_{index % 2}" for index in range(count)], pa.string()),
        customers=pa.array([f"cus_{index % 5}" for index in range(count)], pa.string()),
        originals=pa.array(originals or [b"{%d}" % index for index in range(count)], pa.binary()),
        values={"$.n": values},
        dimensions={"$.d": pa.array(texts or [None] * count, pa.string())},
    )


def packs(events: EventColumns, shards: list[int]) -> list[tuple[int, Pack]]:
    """What is cut, opened again."""
    found = []
    for shard, frame in cut(events, np.array(shards, dtype=np.int64), "v1"):
        opened = unseal(frame)
        assert opened.kind is Kind.PACK
        found.append((shard, Pack(opened)))
    return found


@core(200)
@given(st.lists(st.none() | quantities, min_size=1, max_size=12))
def test_quantities_of_every_size_come_back_exactly(values: list[int | Decimal | None]) -> None:
    ((_, pack),) = packs(columns(values), [0] * len(values))
    expected = [0 if value is None else nanos(Decimal(value)) for value in values]
    assert pack.quantities("$.n").nanos() == expected


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([1, 2**63 - 1, None], b"0"),
        ([1, Decimal("2.5"), None], b"9"),
        ([Decimal("1e-9")], b"9"),
        ([2**63], None),
        ([9_223_372_037, Decimal("0.5")], None),
    ],
)
def test_a_column_takes_as_little_room_as_its_values_allow(
    values: list[int | Decimal | None], scale: bytes | None
) -> None:
    ((_, pack),) = packs(columns(values), [0] * len(values))
    metadata = pack.batch.schema.field(value_column("$.n")).metadata or {}
    assert metadata.get(SCALE) == scale
    assert (pack.quantities("$.n").integers is None) is (scale is None)


@core(80)
@given(
    st.lists(st.lists(quantities, min_size=1, max_size=5), min_size=1, max_size=4),
    st.data(),
)
def test_columns_of_several_packs_join_exactly_and_any_rows_can_be_taken(
    parts: list[list[int | Decimal]], data: st.DataObject
) -> None:
    opened = [packs(columns(list(part)), [0] * len(part))[0][1] for part in parts]
    joined = Quantities.joined([pack.quantities("$.n") for pack in opened])
    expected = [nanos(Decimal(value)) for part in parts for value in part]
    assert joined.nanos() == expected
    picked = data.draw(st.lists(st.integers(0, len(expected) - 1)))
    taken = joined.take(np.array(picked, dtype=np.int64))
    assert taken.nanos() == [expected[index] for index in picked]


rows = st.tuples(st.integers(0, 4), st.none() | texts)


@core(100)
@given(st.lists(rows, min_size=1, max_size=30), st.data())
def test_every_event_is_in_one_pack_of_its_shard_in_order(
    events: list[tuple[int, str | None]], data: st.DataObject
) -> None:
    events_max = data.draw(st.integers(1, 7))
    bytes_max = data.draw(st.sampled_from([1, 10, 30, BYTES_MAX]))
    originals = [b"x" * data.draw(st.integers(1, 20)) for _ in events]
    values: list[int | Decimal | None] = list(range(len(events)))
    made = columns(values, [text for _, text in events], originals)
    with pytest.MonkeyPatch.context() as limits:
        limits.setattr(packing, "EVENTS_MAX", events_max)
        limits.setattr(packing, "BYTES_MAX", bytes_max)
        found = packs(made, [shard for shard, _ in events])
    by_shard: dict[int, list[int]] = {}
    for shard, pack in found:
        offsets = pack.numbers("source_offset").tolist()
        by_shard.setdefault(shard, []).extend(offsets)
        assert 0 < len(pack) <= events_max
        size = sum(len(originals[offset]) for offset in offsets)
        assert size <= bytes_max or len(pack) == 1
        assert pack.originals.to_pylist() == [originals[offset] for offset in offsets]
        assert pack.quantities("$.n").nanos() == [offset * 10**9 for offset in offsets]
        codes, names = pack.codes("dimension:$.d")
        assert [names[code] for code in codes] == [events[offset][1] or "" for offset in offsets]
        assert pack.numbers("id_high").tolist() == [2**63 + offset for offset in offsets]
        assert pack.numbers("source_partition").tolist() == [offset % 3 for offset in offsets]
        assert pack.numbers("source_index").tolist() == [offset % 2 for offset in offsets]
        codes, names = pack.codes("customer")
        assert [names[code] for code in codes] == [f"cus_{offset % 5}" for offset in offsets]
        assert sorted(names) == sorted({f"cus_{offset % 5}" for offset in offsets})
    expected: dict[int, list[int]] = {}
    for offset, (shard, _) in enumerate(events):
        expected.setdefault(shard, []).append(offset)
    assert by_shard == expected


@core(100)
@given(st.lists(st.integers(0, 5).map(lambda halves: halves * DAY_MS // 2), max_size=30))
def test_a_backlog_is_packed_by_arrival_as_far_as_the_order_of_its_partitions_allows(
    received_ms: list[int],
) -> None:
    count = len(received_ms)
    # Read one partition after the other; in each some times go back.
    partitions = [3 * place // count for place in range(count)]
    made = replace(
        columns([1] * count),
        received_ms=np.array(received_ms, dtype=np.int64),
        source_partitions=np.array(partitions, dtype=np.int32),
    )
    found = [
        offset
        for _, pack in packs(made, [0] * count)
        for offset in pack.numbers("source_offset").tolist()
    ]
    newest_ms = [
        max(received_ms[partitions.index(partitions[place]) : place + 1]) for place in range(count)
    ]
    is_backlog = max(received_ms, default=0) - min(received_ms, default=0) >= DAY_MS
    assert found == sorted(range(count), key=lambda place: newest_ms[place] if is_backlog else 0)


def test_packs_are_cut_at_the_real_limits() -> None:
    count = 2 * EVENTS_MAX + 1
    numbers: list[int | Decimal | None] = list(range(count))
    sizes = [len(pack) for _, pack in packs(columns(numbers), [7] * count)]
    assert sizes == [EVENTS_MAX, EVENTS_MAX, 1]
    large = [b"x" * (BYTES_MAX // 2), b"x" * (BYTES_MAX // 2), b"x", b"x" * (BYTES_MAX + 5), b"x"]
    sizes = [len(pack) for _, pack in packs(columns([1] * 5, None, large), [0] * 5)]
    assert sizes == [2, 1, 1, 1]


def test_nothing_is_cut_from_nothing() -> None:
    assert packs(columns([]), []) == []


def test_a_pack_has_the_published_columns_and_names_its_definitions() -> None:
    ((_, pack),) = packs(columns([1, 2]), [0, 0])
    assert pack.batch.schema.names == [*FIXED.names, "value:$.n", "dimension:$.d"]
    assert pack.batch.select(FIXED.names).schema.equals(FIXED)
    assert pack.definitions_version == "v1"
