"""Identity is (source, id); what an event says is its type, customer, time and data."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import mmh3
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.identify import fingerprints, hashes
from tests.pipeline.usage_log import core

parts = st.binary(max_size=40)
few_bytes = st.binary(max_size=3)


def one_hash(*event: bytes) -> tuple[int, int]:
    first, second = hashes(*([part] for part in event))
    return int(first[0]), int(second[0])


def as_documented(event: Sequence[bytes]) -> tuple[int, int]:
    """The hash by a library, of what `pipeline.hash_parts` says that is hashed."""
    text = b"".join(struct.pack("<Q", len(part)) + part + bytes(-len(part) % 8) for part in event)
    return mmh3.hash64(text, signed=False)


@core(300)
@given(st.lists(st.tuples(parts, parts, parts), min_size=1, max_size=5))
def test_hashes_are_murmur_of_lengths_and_texts(events: list[tuple[bytes, bytes, bytes]]) -> None:
    first, second = hashes(*zip(*events, strict=True))
    found = list(zip(first.tolist(), second.tolist(), strict=True))
    assert found == [as_documented(event) for event in events]


@core(300)
@given(st.tuples(few_bytes, few_bytes), st.tuples(few_bytes, few_bytes))
def test_two_events_have_one_identity_only_if_source_and_id_are_the_same(
    one: tuple[bytes, bytes], two: tuple[bytes, bytes]
) -> None:
    assert (one_hash(*one) == one_hash(*two)) is (one == two)


@core(200)
@given(st.binary(max_size=20), st.integers(0, 20))
def test_moving_a_byte_from_source_to_id_is_another_identity(joined: bytes, cut: int) -> None:
    all_cuts = {one_hash(joined[:at], joined[at:]) for at in range(len(joined) + 1)}
    assert len(all_cuts) == len(joined) + 1
    assert one_hash(joined[:cut], joined[cut:]) in all_cuts


def test_an_identity_is_the_same_for_ever() -> None:
    # Changing this would count every event of the last 35 days again.
    first, second = one_hash(b"/gateway/eu-1", b"req-8f2c")
    assert f"{first:016x} {second:016x}" == "fc04bbac1bd5511e 68939ff30e0610ec"


def test_there_may_be_no_event() -> None:
    first, second = hashes([], [])
    assert (len(first), len(second)) == (0, 0)


def test_another_time_is_another_fingerprint() -> None:
    times = np.arange(10_000, dtype=np.int64)
    said = np.full(len(times), one_hash(b"llm", b"cus_1", b"1")[0], dtype=np.uint64)
    # 10,000 values of 32 bits hold two equal ones with a probability of 1 %; these do not.
    assert len(set(fingerprints(said, times).tolist())) == len(times)
    again = fingerprints(said[:1], times[:1])
    assert again.dtype == np.uint32
    assert again[0] == fingerprints(said, times)[0]
