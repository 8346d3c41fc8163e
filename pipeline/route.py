"""Which shard a customer belongs to: for ever the same, whatever the partitions of usage.events."""

from __future__ import annotations

from collections.abc import Iterable

import xxhash

from pipeline.errors import Stop


class Router(dict[str, int]):
    """Customer to shard, remembered. `shards` is fixed for the life of a deployment."""

    #: Beyond this many customers memory is worth more than the hash.
    CUSTOMERS_MAX = 1_000_000

    def __init__(self, shards: int) -> None:
        super().__init__()
        self.shards = shards

    def __missing__(self, customer: str) -> int:
        if len(self) >= self.CUSTOMERS_MAX:
            self.clear()
        shard = xxhash.xxh3_64_intdigest(customer.encode()) % self.shards
        self[customer] = shard
        return shard


def require_home(
    router: Router, shard: int, customers: Iterable[str], where: str, remedy: str
) -> None:
    """All `customers` belong to `shard`: counted elsewhere, one would have two totals.

    Raises:
        Stop: one does not; `where` says whose customers these are.
    """
    for customer in customers:
        if router[customer] != shard:
            raise Stop(
                f"{where} has customer {customer!r:.100}, who belongs to shard "
                f"{router[customer]} of {router.shards}.",
                remedy=remedy,
            )
