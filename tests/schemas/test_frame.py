"""Frames come back as they were sealed, and nothing else is taken for one."""

from __future__ import annotations

import struct
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.frame import VERSION, FrameError, Kind, seal, unseal

texts = st.text(st.characters(exclude_categories=["Cs"]))
headers = st.dictionaries(texts, st.one_of(texts, st.integers(-(2**63), 2**64 - 1), st.booleans()))
batches = st.lists(
    st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.none() | texts)).map(
        lambda rows: pa.record_batch(
            {
                "number": pa.array([number for number, _ in rows], pa.int64()),
                "text": pa.array([text for _, text in rows], pa.string()),
            }
        )
    ),
    max_size=3,
)

BATCH = pa.record_batch({"customer": ["cus_1", "cus_2"], "events": [3, 4]})
SEALED = seal(Kind.TOTALS, {"version": 17}, [BATCH, BATCH])


@given(st.sampled_from(Kind), headers, batches)
def test_a_frame_comes_back_as_it_was_sealed(
    kind: Kind, header: dict[str, Any], parts: list[pa.RecordBatch]
) -> None:
    frame = unseal(seal(kind, header, parts))
    assert (frame.kind, frame.header) == (kind, header)
    assert list(frame.parts) == parts


def test_the_order_of_a_header_does_not_matter() -> None:
    assert seal(Kind.PACK, {"a": 1, "b": 2}) == seal(Kind.PACK, {"b": 2, "a": 1})


@pytest.mark.parametrize("flipped", [0x01, 0x80, 0xFF])
def test_a_damaged_byte_is_noticed_wherever_it_is(flipped: int) -> None:
    for at in range(len(SEALED)):
        damaged = bytearray(SEALED)
        damaged[at] ^= flipped
        with pytest.raises(FrameError):
            unseal(bytes(damaged))


def test_a_frame_that_was_cut_short_or_grew_is_noticed() -> None:
    for length in range(len(SEALED)):
        with pytest.raises(FrameError):
            unseal(SEALED[:length])
    with pytest.raises(FrameError, match="checksum mismatch"):
        unseal(SEALED + b"\0")


def test_another_version_is_refused_with_the_remedy() -> None:
    other = SEALED[:2] + bytes([VERSION + 1]) + SEALED[3:]
    with pytest.raises(FrameError, match=r"frame version 2, this program reads 1; upgrade it"):
        unseal(other)


def test_an_unknown_kind_is_refused_with_the_remedy() -> None:
    with pytest.raises(FrameError, match=r"frame kind 200 is unknown to this program; upgrade it"):
        unseal(seal(200, {}))  # type: ignore[arg-type]


def test_a_kind_cannot_be_taken_for_another() -> None:
    """The kind stands before the checksum, and yet is covered by it."""
    with pytest.raises(FrameError, match="checksum mismatch"):
        unseal(SEALED[:3] + struct.pack("B", Kind.SEGMENT) + SEALED[4:])


def test_foreign_bytes_are_refused_with_the_remedy() -> None:
    for foreign in (b"", b"{}", b'{"specversion": "1.0", "id": "a"}'):
        with pytest.raises(FrameError, match="something else writes to this topic: find it"):
            unseal(foreign)
