"""Which events were seen before: a table of identities, open addressing in plain numpy.

22 bytes a slot: 16 of identity, 4 of fingerprint, 2 for the day on which it expires. The table
grows by half at 72 % load, so an identity takes 31 bytes when it is fullest. Probing walks by
a step of the identity's own (double hashing): with vectors, what counts is not the average probe
but how many rounds the unluckiest event of a batch needs.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from schemas.decisions import Status

_SMALLEST = 1_024
_LOAD_MAX = 0.72
_GROWTH = 1.5

#: Spreads a step over all 64 bits: 2^64 divided by the golden ratio, as in Fibonacci hashing.
_MIX = np.uint64(0x9E3779B97F4A7C15)

#: No identity has this expiry: it marks a free slot.
_FREE = 0

#: High and low half, fingerprint, expiry: one row an identity.
Columns: TypeAlias = tuple[
    NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint32], NDArray[np.uint16]
]


class IdTable:
    """Identities with their fingerprint and the last day on which a copy could still count."""

    def __init__(self) -> None:
        self._allocate(_SMALLEST)

    def __len__(self) -> int:
        return self._count

    @property
    def slots(self) -> int:
        """How many identities would fill the table to the last slot; it grows before that."""
        return len(self._low)

    @property
    def bytes_held(self) -> int:
        """Memory of the table, in bytes."""
        return sum(
            column.nbytes for column in (self._high, self._low, self._fingerprint, self._expires)
        )

    def claim(self, columns: Columns, today: NDArray[np.uint16]) -> NDArray[np.uint8]:
        """Claim the identities of events, in order; all arrays have shape (n,).

        The expiry (at least 1) is the last day, since 1970, on which a copy of the event could
        count; `today` is the day of the log when it arrived. An identity whose day has passed is
        forgotten. Returns for each event `ACCEPTED` if it is the first of its identity,
        `DUPLICATE` for a copy, `CONFLICT` for another fingerprint under a known identity.
        """
        high, low, fingerprint, _ = columns
        self._reserve(len(low))
        status = np.full(len(low), Status.ACCEPTED, dtype=np.uint8)
        # Sorted by home slot, so that memory is walked through once; equal identities lie together
        # and in order, because the sort is stable.
        rest = np.lexsort((high, low)) if len(low) else np.zeros(0, dtype=np.int64)
        while len(rest):
            first = np.ones(len(rest), dtype=bool)
            first[1:] = (low[rest[1:]] != low[rest[:-1]]) | (high[rest[1:]] != high[rest[:-1]])
            events = rest[first]
            slots, known = self._claim_distinct(columns, events, today)
            differs = self._fingerprint[slots] != fingerprint[events]
            status[events[known & differs]] = Status.CONFLICT
            status[events[known & ~differs]] = Status.DUPLICATE

            copies = rest[~first]
            of = (np.cumsum(first) - 1)[~first]
            at = slots[of]
            alive = self._expires[at] >= today[copies]
            # Once a copy finds its identity expired, it is the first one for all that follow.
            dead = np.cumsum(~alive)
            dead_before = dead - ~alive
            alive &= dead == dead_before[np.searchsorted(of, of)]
            differs = self._fingerprint[at] != fingerprint[copies]
            status[copies[alive]] = np.where(differs[alive], Status.CONFLICT, Status.DUPLICATE)
            rest = copies[~alive]
        return status

    def grow(self, slots: int) -> None:
        """Have at least so many slots, at once instead of step by step."""
        if slots > len(self._low):
            entries = self.entries()
            self._allocate(slots)
            self.insert(entries)

    def insert(self, columns: Columns) -> None:
        """Insert identities that differ from each other; one that is known is replaced."""
        low = columns[1]
        self._reserve(len(low))
        order = np.argsort(low)
        never = np.full(len(low), np.iinfo(np.uint16).max, dtype=np.uint16)
        # In pieces, so that the temporary arrays stay small beside the table.
        for begin in range(0, len(order), 1 << 15):
            self._claim_distinct(columns, order[begin : begin + (1 << 15)], never)

    def entries(self) -> Columns:
        """All identities, shape (len(self),) each."""
        used = self._expires != _FREE
        return self._high[used], self._low[used], self._fingerprint[used], self._expires[used]

    def forget_before(self, day: int) -> None:
        """Drop the identities that expired before `day`, and give their memory back."""
        high, low, fingerprint, expires = self.entries()
        alive = expires >= day
        if not alive.all():
            self._allocate(_SMALLEST)
            self.insert((high[alive], low[alive], fingerprint[alive], expires[alive]))

    def _claim_distinct(
        self, columns: Columns, events: NDArray[np.int64], today: NDArray[np.uint16]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Find or insert `events`, all of different identities: their slots, and who was known."""
        high, low, _, _ = columns
        slots = np.empty(len(events), dtype=np.int64)
        known = np.zeros(len(events), dtype=bool)
        waiting = np.arange(len(events))
        walk = low[events]
        step = high[events] * _MIX | np.uint64(1)
        while len(waiting):
            ids = events[waiting]
            at = self._slot(walk)
            taken = self._expires[at] != _FREE
            self._write(columns, ids[~taken], at[~taken])
            # Of several events that wrote to one slot the last one stands there; only it is done.
            here = (self._low[at] == low[ids]) & (self._high[at] == high[ids])
            slots[waiting[here]] = at[here]
            self._count += int(np.count_nonzero(here & ~taken))
            found = here & taken
            if found.any():
                forgotten = found & (self._expires[at] < today[ids])
                self._write(columns, ids[forgotten], at[forgotten])
                known[waiting[found & ~forgotten]] = True
            gone_on = ~here
            waiting = waiting[gone_on]
            walk = walk[gone_on] + step[gone_on]
            step = step[gone_on]
        return slots, known

    def _write(self, columns: Columns, events: NDArray[np.int64], slots: NDArray[np.int64]) -> None:
        high, low, fingerprint, expires = columns
        self._high[slots] = high[events]
        self._low[slots] = low[events]
        self._fingerprint[slots] = fingerprint[events]
        self._expires[slots] = expires[events]

    def _reserve(self, more: int) -> None:
        needed = (self._count + more) / _LOAD_MAX
        if needed > len(self._low):
            self.grow(int(max(needed, len(self._low) * _GROWTH)) + 1)

    def _allocate(self, slots: int) -> None:
        self._count = 0
        self._high = np.zeros(slots, dtype=np.uint64)
        self._low = np.zeros(slots, dtype=np.uint64)
        self._fingerprint = np.zeros(slots, dtype=np.uint32)
        self._expires = np.zeros(slots, dtype=np.uint16)

    def _slot(self, walk: NDArray[np.uint64]) -> NDArray[np.int64]:
        """A hash scaled to the table, so that slots are in the order of hashes.

        Formula: D. Lemire, "Fast Random Integer Generation in an Interval" (2019), multiply-shift.
        """
        scaled = (walk >> np.uint64(32)) * np.uint64(len(self._low)) >> np.uint64(32)
        return scaled.astype(np.int64)
