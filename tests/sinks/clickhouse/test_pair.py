"""Packs and decisions are paired exactly, or the sink stops."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pytest

from pipeline.errors import Stop
from pipeline.record import Record
from schemas import topics
from schemas.decisions import LATE_COLUMNS, STATUS_COLUMNS
from schemas.frame import Kind, seal
from sinks.clickhouse.pair import WAITING_BYTES_MAX, Pairing

PARTITION = 5


def metered(offset: int, kind: Kind = Kind.PACK, events: int = 2) -> Record:
    """A record of usage.metered; its one column is enough for a pairing."""
    parts = [pa.record_batch({"name": pa.array([f"{offset}"] * events)})]
    header = {"definitions": "v1", "version": "v1", "document": {}}
    value = seal(kind, header, parts if kind == Kind.PACK else [])
    return Record(topics.METERED.name, PARTITION, offset, 0, None, value)


def decided(offset: int, pack_offset: int, events: int = 2, status: int = 0) -> Record:
    """A record of usage.decisions about the pack at `pack_offset`."""
    parts = [
        pa.record_batch([pa.array([status] * events, pa.uint8())], schema=STATUS_COLUMNS),
        pa.record_batch([pa.array([], pa.int32()), pa.array([], pa.string())], schema=LATE_COLUMNS),
    ]
    value = seal(Kind.DECISIONS, {"pack_offset": pack_offset}, parts)
    return Record(topics.DECISIONS.name, PARTITION, offset, 0, None, value)


def paired(pairing: Pairing, *records: Record) -> tuple[Pairing, list[int]]:
    """The next pairing, and the offsets of the packs that were decided."""
    pairing, pairs = pairing.step(records)
    for pack, decisions in pairs:
        assert pack.parts[0].column("name")[0].as_py() == str(decisions.header["pack_offset"])
    return pairing, [decisions.header["pack_offset"] for _, decisions in pairs]


def test_whichever_comes_first_waits_for_the_other() -> None:
    pairing, packs = paired(Pairing(PARTITION), metered(3), metered(7))
    assert packs == []
    pairing, packs = paired(pairing, decided(1, 3), decided(2, 7), decided(4, 9))
    assert packs == [3, 7]
    assert pairing.positions() == {
        (topics.METERED.name, PARTITION): 8,
        (topics.DECISIONS.name, PARTITION): 4,
    }
    pairing, packs = paired(pairing, metered(8, Kind.DEFINITIONS), metered(9))
    assert packs == [9]
    assert pairing.positions() == {
        (topics.METERED.name, PARTITION): 10,
        (topics.DECISIONS.name, PARTITION): 5,
    }


def test_decisions_about_packs_written_before_the_restart_are_skipped() -> None:
    pairing, packs = paired(Pairing(PARTITION), decided(1, 3), decided(2, 7), metered(9))
    assert packs == []
    pairing, packs = paired(pairing, decided(3, 9))
    assert packs == [9]
    assert not pairing.packs
    assert not pairing.decisions


def test_records_taken_before_are_skipped() -> None:
    records = (metered(3), decided(1, 3), metered(4))
    pairing, packs = paired(Pairing(PARTITION), *records)
    assert packs == [3]
    again, packs = paired(pairing, *records)
    assert packs == []
    assert again == pairing


def test_a_step_leaves_the_pairing_before_it_as_it_was() -> None:
    before, _ = paired(Pairing(PARTITION), metered(3))
    paired(before, decided(1, 3))
    assert paired(before, decided(1, 3))[1] == [3]


def test_the_topic_that_is_far_ahead_waits_for_the_other() -> None:
    large_records: dict[str, Callable[[int], Record]] = {
        topics.METERED.name: lambda offset: metered(offset, events=300_000),
        topics.DECISIONS.name: lambda offset: decided(offset, offset, events=1_500_000),
    }
    for topic, large_record in large_records.items():
        pairing = Pairing(PARTITION)
        waiting_bytes = offset = 0
        while waiting_bytes <= WAITING_BYTES_MAX:
            assert pairing.ahead() is None
            large = large_record(offset)
            waiting_bytes += len(large.value or b"")
            offset += 1
            pairing, _ = paired(pairing, large)
        assert pairing.ahead() == topic


def test_a_pack_without_decisions_stops_the_sink() -> None:
    with pytest.raises(Stop, match=r"pack at offset 4 .* has no decisions"):
        paired(Pairing(PARTITION), metered(3), metered(4), metered(5), decided(1, 3), decided(3, 5))
    with pytest.raises(Stop, match=r"pack at offset 4 .* has no decisions"):
        paired(Pairing(PARTITION), metered(3), metered(4), decided(1, 3), decided(3, 5))


def test_a_pack_that_may_be_lost_to_tally_as_well_is_first_looked_for_by_another_start() -> None:
    with pytest.raises(Stop) as stop:
        paired(Pairing(PARTITION), metered(3), metered(4), decided(1, 3), decided(3, 5))
    assert stop.value.remedy.startswith("Start this sink again: if retention took the pack")
    assert "let tally decide again from this pack" in stop.value.remedy


def test_decisions_without_their_pack_stop_the_sink() -> None:
    with pytest.raises(Stop, match=r"pack at offset 4 .* has no such pack"):
        paired(Pairing(PARTITION), metered(3), metered(5), decided(1, 3), decided(2, 4))
    with pytest.raises(Stop, match=r"pack at offset 4 .* has no such pack"):
        paired(
            Pairing(PARTITION),
            metered(3),
            metered(4, Kind.DEFINITIONS),
            decided(1, 3),
            decided(2, 4),
        )


@pytest.mark.parametrize("decisions", [decided(1, 3, events=1), decided(1, 3, status=5)])
def test_decisions_that_do_not_fit_their_pack_stop_the_sink(decisions: Record) -> None:
    with pytest.raises(Stop, match="do not fit"):
        paired(Pairing(PARTITION), metered(3), decisions)


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (b"{}", "not a Meterline frame"),
        (None, "not a Meterline frame"),
        (seal(Kind.PACK, {"a": 1})[:-1] + b"!", "checksum mismatch"),
        (b"ML\x09" + seal(Kind.PACK, {})[3:], "frame version 9"),
        (seal(Kind.TOTALS, {}), "carries totals"),
    ],
)
def test_what_is_no_frame_of_its_topic_stops_the_sink(value: bytes | None, fault: str) -> None:
    record = Record(topics.METERED.name, PARTITION, 11, 0, None, value)
    with pytest.raises(Stop, match=f"usage.metered-5 at offset 11.*{fault}") as stop:
        Pairing(PARTITION).step([record])
    assert stop.value.remedy
