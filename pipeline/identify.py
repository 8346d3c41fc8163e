"""Who an event is, and what it says: its identity and its fingerprint.

Identity is (source, id). The two are joined with a length, because any delimiter could be part of
them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

_digest_128 = xxhash.xxh3_128_digest
_digest_64 = xxhash.xxh3_64_intdigest

#: Odd, with well mixed bits: 2^64 divided by the golden ratio, as in Fibonacci hashing.
_MIX = np.uint64(0x9E3779B97F4A7C15)


def identity(source: str, event_id: str) -> bytes:
    """The 128-bit identity of an event: 16 bytes."""
    return _digest_128(_joined(source, event_id))


def identities(joined: Iterable[bytes]) -> list[bytes]:
    """The identities of events, of source and id as `gather_pairs` joins them."""
    return list(map(_digest_128, joined))


def identity_columns(identities: Sequence[bytes]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The high and low halves of identities, shape (n,) each."""
    halves = np.frombuffer(b"".join(identities), dtype=">u8").astype(np.uint64).reshape(-1, 2)
    return np.ascontiguousarray(halves[:, 0]), np.ascontiguousarray(halves[:, 1])


def content_hash(event_type: str, customer: str, data: bytes) -> int:
    """A 64-bit hash of what an event says besides its time; data as its bytes were sent."""
    return _digest_64(data, _digest_64(_joined(event_type, customer)))


def content_hashes(joined: Iterable[bytes], data: Sequence[bytes]) -> NDArray[np.uint64]:
    """The content hash of each event, shape (n,), of type and customer as `gather_pairs` joins."""
    return np.fromiter(map(_digest_64, data, map(_digest_64, joined)), np.uint64, len(data))


def fingerprints(hashes: NDArray[np.uint64], times_ns: NDArray[np.int64]) -> NDArray[np.uint32]:
    """What each event says, in 32 bits: its type, customer, time and data. Shape (n,).

    Another payload under a known identity is taken for a resend with probability 2^-32.
    """
    mixed = hashes ^ (times_ns.view(np.uint64) * _MIX)
    mixed *= _MIX
    return (mixed >> np.uint64(32)).astype(np.uint32)


def _joined(first: str, second: str) -> bytes:
    return f"{len(first)}:{first}{second}".encode()
