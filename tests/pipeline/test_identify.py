"""Identity is (source, id); what an event says is its type, customer, time and data."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.identify import content_hash, fingerprints, identity, identity_columns
from tests.pipeline.usage_log import core

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


@core(300)
@given(texts, texts, texts, texts)
def test_two_events_have_one_identity_only_if_source_and_id_are_the_same(
    source: str, event_id: str, other_source: str, other_id: str
) -> None:
    same = (source, event_id) == (other_source, other_id)
    assert (identity(source, event_id) == identity(other_source, other_id)) is same


@core(200)
@given(texts, st.integers(0, 6))
def test_moving_a_character_from_source_to_id_is_another_identity(joined: str, cut: int) -> None:
    all_cuts = {identity(joined[:at], joined[at:]) for at in range(len(joined) + 1)}
    assert len(all_cuts) == len(joined) + 1
    assert identity(joined[:cut], joined[cut:]) in all_cuts


def test_an_identity_is_the_same_for_ever() -> None:
    # Changing this would count every event of the last 35 days again.
    assert identity("/gateway/eu-1", "req-8f2c").hex() == "4bd0174548bb62aa43f8a984e68a7bce"
    assert content_hash("llm", "cus_1", b"{}") == 8807097621095859596


def test_the_halves_of_identities_keep_their_order() -> None:
    identities = [bytes(range(16)), b"\xff" * 16, bytes(16)]
    high, low = identity_columns(identities)
    assert high.tolist() == [0x0001020304050607, 2**64 - 1, 0]
    assert low.tolist() == [0x08090A0B0C0D0E0F, 2**64 - 1, 0]


@core(300)
@given(
    st.tuples(texts, texts, st.binary(max_size=4)),
    st.tuples(texts, texts, st.binary(max_size=4)),
)
def test_what_is_said_differs_in_type_customer_or_data(
    one: tuple[str, str, bytes], two: tuple[str, str, bytes]
) -> None:
    assert (content_hash(*one) == content_hash(*two)) is (one == two)


def test_type_and_customer_are_not_joined() -> None:
    assert content_hash("ab", "c", b"") != content_hash("a", "bc", b"")
    assert content_hash("1:a", "", b"") != content_hash("a", "", b"")


def test_another_time_is_another_fingerprint() -> None:
    times = np.arange(10_000, dtype=np.int64)
    hashes = np.full(len(times), content_hash("llm", "cus_1", b"1"), dtype=np.uint64)
    # 10,000 values of 32 bits hold two equal ones with a probability of 1 %; these do not.
    assert len(set(fingerprints(hashes, times).tolist())) == len(times)
    again = fingerprints(hashes[:1], times[:1])
    assert again.dtype == np.uint32
    assert again[0] == fingerprints(hashes, times)[0]
