"""Which shard a customer belongs to: for ever the same, whatever the partitions of usage.events."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from pipeline.errors import Stop
from pipeline.text_numbering import TextNumbering


class Router(dict[str, int]):
    """Customer to shard, remembered. `shards` is fixed for the life of a deployment."""

    #: Beyond this many customers memory is worth more than the hash.
    CUSTOMERS_MAX = 1_000_000

    def __init__(self, shards: int) -> None:
        super().__init__()
        self.shards = shards
        #: Those of arrays: a number each, and the shard of each number.
        self._numbering = TextNumbering()
        self._of_number: NDArray[np.int64] = np.zeros(0, np.int64)

    def of_each(self, customers: pa.Array) -> NDArray[np.int64]:
        """The shards of an array of n strings, shape (n,); no Python object for a known one."""
        if len(self._numbering) >= self.CUSTOMERS_MAX:
            self._numbering = TextNumbering()
            self._of_number = np.zeros(0, np.int64)
        known = len(self._numbering)
        numbers = self._numbering.numbers(customers)
        if len(self._numbering) > known:
            names = self._numbering.column(np.arange(known, len(self._numbering)))
            self._of_number = np.concatenate([self._of_number, homes(names, self.shards)])
        of_each: NDArray[np.int64] = self._of_number[numbers]
        return of_each

    def __missing__(self, customer: str) -> int:
        if len(self) >= self.CUSTOMERS_MAX:
            self.clear()
        shard = xxhash.xxh3_64_intdigest(customer.encode()) % self.shards
        self[customer] = shard
        return shard


def homes(customers: pa.Array, shards: int) -> NDArray[np.int64]:
    """The shards of n customers, of so many, shape (n,); remembers none."""
    hashes = map(xxhash.xxh3_64_intdigest, customers.cast(pa.binary()).to_pylist())
    return (np.fromiter(hashes, np.uint64, len(customers)) % np.uint64(shards)).astype(np.int64)


def require_home(shard: int, shards: int, customers: pa.Array, where: str, remedy: str) -> None:
    """All `customers` belong to this one of `shards`: elsewhere, one would have two totals.

    Raises:
        Stop: one does not; `where` says whose customers these are.
    """
    found = homes(customers, shards)
    strangers = np.flatnonzero(found != shard)
    if len(strangers):
        stranger = int(strangers[0])
        raise Stop(
            f"{where} has customer {customers[stranger].as_py()!r:.100}, who belongs to shard "
            f"{found[stranger]} of {shards}.",
            remedy=remedy,
        )
