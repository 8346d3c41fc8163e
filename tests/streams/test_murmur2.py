"""Customers lie where clients in Java, and ours, look for them."""

from __future__ import annotations

import pytest

from streams.murmur2 import Partitions, murmur2


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_the_hash_is_that_of_kafkas_own_tests(key: bytes, hashed: int) -> None:
    """From org.apache.kafka.common.utils.UtilsTest, where it is a signed integer."""
    assert murmur2(key) == hashed % 2**32


def test_partitions_are_remembered_up_to_a_number_of_keys() -> None:
    partitions = Partitions(7)
    partitions.KEYS_MAX = 10
    found = [partitions[b"%d" % number] for number in range(100)]
    assert set(found) == set(range(7))
    assert len(partitions) <= 10
    assert [partitions[b"%d" % number] for number in range(100)] == found
