"""The partition of a key, as Kafka's Java client and librdkafka's `murmur2` choose it.

Formula: A. Appleby, MurmurHash2, with Kafka's seed, as in org.apache.kafka.common.utils.Utils.
https://github.com/apache/kafka/blob/4.1.0/clients/src/main/java/org/apache/kafka/common/utils/Utils.java
"""

from __future__ import annotations

_SEED = 0x9747B28C
_FACTOR = 0x5BD1E995
_SHIFT = 24
_WORD = 0xFFFFFFFF
_POSITIVE = 0x7FFFFFFF


class Partitions(dict[bytes, int]):
    """Key to partition, remembered."""

    #: Beyond this many keys memory is worth more than the hash.
    KEYS_MAX = 1_000_000

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def __missing__(self, key: bytes) -> int:
        if len(self) >= self.KEYS_MAX:
            self.clear()
        partition = (murmur2(key) & _POSITIVE) % self.count
        self[key] = partition
        return partition


def murmur2(key: bytes) -> int:
    """The hash of a key, 32 bits."""
    end = len(key) & ~3
    hashed = _SEED ^ len(key)
    for at in range(0, end, 4):
        word = int.from_bytes(key[at : at + 4], "little") * _FACTOR & _WORD
        word = (word ^ word >> _SHIFT) * _FACTOR & _WORD
        hashed = hashed * _FACTOR & _WORD ^ word
    if end < len(key):
        hashed = (hashed ^ int.from_bytes(key[end:], "little")) * _FACTOR & _WORD
    hashed = (hashed ^ hashed >> 13) * _FACTOR & _WORD
    return hashed ^ hashed >> 15
