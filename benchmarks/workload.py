"""The events that every benchmark counts: seeded, of any number, and with known totals.

    workload = Workload(3_000_000)
    for batch in workload.batches():
        for customer, event, arrival_ms in batch: ...
    workload.expected()[("cus_00000", "llm.request")]  # Sum(value=…, events=…)

Each event is a JSON CloudEvent of about 200 bytes. What stands at a position follows from the seed
and the position alone, so any stretch can be made again without keeping what came before: a
duplicate is an earlier position written once more, byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Each type is a meter of its own: the sum of `data.value`, and how many events there were.
EVENT_TYPES: Final = ("llm.request", "storage.write", "api.call")

#: 2026-11-02T00:00:00Z, as milliseconds since 1970, when the first event arrives.
BEGIN_MS: Final = 1_793_577_600_000
#: 2026-11-01T00:00:00Z: all events belong to the month that begins here.
PERIOD_START_MS: Final = 1_793_491_200_000
#: 2026-12-01T00:00:00Z.
PERIOD_END_MS: Final = 1_796_083_200_000
#: One arrives each millisecond, so that this many fit into the month.
EVENTS_MAX: Final = PERIOD_END_MS - BEGIN_MS

#: A resend follows its original by at most this many positions.
DUPLICATE_DISTANCE_MAX: Final = 300_000
VALUE_MAX: Final = 4_000

#: An event happens up to this long before it arrives for the first time.
_DELAY_MS_MAX = 2_000
_DAY_MS = 86_400_000
_SOURCES = ("/gateway/eu-1", "/gateway/eu-2", "/gateway/us-1", "/gateway/us-2")

#: The share of the customer of rank r is proportional to this power of r: with 10,000 of them the
#: first has 0.5 % of all events, and the last a hundredth of that.
_SKEW = 0.5
#: Customers are drawn from so many equal slots, by their shares.
_SLOT_BITS = 22

Column = NDArray[np.int64]


class Sum(NamedTuple):
    """What one customer used of one event type in the month."""

    value: int
    events: int


@dataclass(frozen=True)
class Workload:
    """`events` events of `customers`, the same for the same `seed`.

    About `duplicate_share` of them are copies of earlier ones. `heaviest_share`, if not zero, is
    what the first customer has of all events, instead of its share by rank.

    Raises:
        ValueError: there are more events than fit into the month, or no customers.
    """

    events: int
    customers: int = 10_000
    seed: int = 20_261_102
    duplicate_share: float = 0.01
    heaviest_share: float = 0

    def __post_init__(self) -> None:
        if not 0 <= self.events <= EVENTS_MAX:
            raise ValueError(f"{self.events} events; between 0 and {EVENTS_MAX:,} are possible")
        if not 1 <= self.customers <= 1 << _SLOT_BITS:
            raise ValueError(f"{self.customers} customers; between 1 and 4,194,304 are possible")

    def batches(self, size: int = 10_000) -> Iterator[list[tuple[bytes, bytes, int]]]:
        """All events in the order of their arrival, in lists of `size`.

        Each is (key, event, arrival in ms since 1970); the key is the customer.
        """
        for begin in range(0, self.events, size):
            yield self.rows(begin, min(begin + size, self.events))

    def rows(self, begin: int, end: int) -> list[tuple[bytes, bytes, int]]:
        """The events at the positions `begin` to `end`, as in `batches`."""
        originals = self._originals(begin, end)
        fields = self._fields(originals)
        names = self._names
        columns = (
            range(BEGIN_MS + begin, BEGIN_MS + end),
            fields.ids.tolist(),
            fields.sources.tolist(),
            fields.types.tolist(),
            fields.customers.tolist(),
            fields.days.tolist(),
            fields.milliseconds.tolist(),
            fields.values.tolist(),
        )
        rows = []
        for arrival, number, source, kind, customer, day, of_day, value in zip(
            *columns, strict=True
        ):
            seconds, milliseconds = divmod(of_day, 1_000)
            minutes, seconds = divmod(seconds, 60)
            hours, minutes = divmod(minutes, 60)
            key = names[customer]
            rows.append(
                (
                    key,
                    b'{"specversion":"1.0","id":"%016x","source":"%b","type":"%b","subject":"%b",'
                    b'"time":"2026-11-%02dT%02d:%02d:%02d.%03dZ",'
                    b'"data":{"value":%d,"model":"m-%d","region":"eu-%d"}}'
                    % (
                        number,
                        _SOURCE_BYTES[source],
                        _TYPE_BYTES[kind],
                        key,
                        day,
                        hours,
                        minutes,
                        seconds,
                        milliseconds,
                        value,
                        value % 3,
                        source,
                    ),
                    arrival,
                )
            )
        return rows

    def expected(self) -> dict[tuple[str, str], Sum]:
        """The right totals, by (customer, event type): each event once, however often it came."""
        slots = self.customers * len(EVENT_TYPES)
        sums, counts = np.zeros(slots, np.int64), np.zeros(slots, np.int64)
        for begin in range(0, self.events, 1_000_000):
            end = min(begin + 1_000_000, self.events)
            positions = np.arange(begin, end, dtype=np.int64)
            fields = self._fields(positions[self._originals(begin, end) == positions])
            slot = fields.customers * len(EVENT_TYPES) + fields.types
            # As binary floats, but of whole numbers far below 2^53: exact.
            sums += np.bincount(slot, fields.values, slots).astype(np.int64)
            counts += np.bincount(slot, minlength=slots)
        names = [name.decode() for name in self._names]
        return {
            (names[slot // len(EVENT_TYPES)], EVENT_TYPES[slot % len(EVENT_TYPES)]): Sum(
                int(sums[slot]), int(counts[slot])
            )
            for slot in np.flatnonzero(counts).tolist()
        }

    @cached_property
    def _names(self) -> list[bytes]:
        return [b"cus_%05d" % rank for rank in range(self.customers)]

    @cached_property
    def _customer_of_slot(self) -> NDArray[np.int32]:
        shares = np.arange(1, self.customers + 1, dtype=np.float64) ** -_SKEW
        shares /= shares.sum()
        if self.heaviest_share:
            shares[1:] *= (1 - self.heaviest_share) / max(shares[1:].sum(), 1e-12)
            shares[0] = self.heaviest_share
        ends = np.floor(np.cumsum(shares) * (1 << _SLOT_BITS)).astype(np.int64)
        ends[-1] = 1 << _SLOT_BITS
        return np.repeat(np.arange(self.customers, dtype=np.int32), np.diff(ends, prepend=0))

    def _originals(self, begin: int, end: int) -> Column:
        """For each position the one whose event it repeats; its own if it is no duplicate."""
        positions = np.arange(begin, end, dtype=np.int64)
        farthest = np.clip(positions, 1, DUPLICATE_DISTANCE_MAX).astype(np.uint64)
        copied = positions - 1 - (self._random(positions, 1) % farthest).astype(np.int64)
        # Only of what is itself no copy, so that no distance adds up.
        repeats = self._may_repeat(positions) & (copied >= 0) & ~self._may_repeat(copied)
        return np.where(repeats, copied, positions)

    def _may_repeat(self, positions: Column) -> NDArray[np.bool_]:
        draws = (self._random(positions, 2) >> np.uint64(11)).astype(np.float64) / 2**53
        return draws < self.duplicate_share

    def _fields(self, positions: Column) -> _Fields:
        customer_draw = self._random(positions, 4) >> np.uint64(64 - _SLOT_BITS)
        draw = self._random(positions, 5)
        delay = (draw >> np.uint64(40)) % _DELAY_MS_MAX
        of_month = BEGIN_MS - PERIOD_START_MS + positions - delay.astype(np.int64)
        return _Fields(
            ids=self._random(positions, 3),
            sources=(draw & np.uint64(3)).astype(np.int64),
            types=((draw >> np.uint64(2)) % len(EVENT_TYPES)).astype(np.int64),
            customers=self._customer_of_slot[customer_draw].astype(np.int64),
            days=of_month // _DAY_MS + 1,
            milliseconds=of_month % _DAY_MS,
            values=((draw >> np.uint64(20)) % VALUE_MAX).astype(np.int64) + 1,
        )

    def _random(self, positions: Column, stream: int) -> NDArray[np.uint64]:
        """64 random bits for each position, of one of several independent streams.

        Source: G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom number generators".
        """
        with np.errstate(over="ignore"):
            golden = np.uint64(0x9E3779B97F4A7C15)
            state = positions.astype(np.uint64) * golden
            state += np.uint64((self.seed * 1_000_003 + stream) * 0xD1342543DE82EF95 % 2**64)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            return state ^ (state >> np.uint64(31))


@dataclass(frozen=True)
class _Fields:
    """Columns of the same length; customers, types and sources as positions in their lists."""

    ids: NDArray[np.uint64]
    sources: Column
    types: Column
    customers: Column
    days: Column
    milliseconds: Column
    values: Column


_SOURCE_BYTES = tuple(source.encode() for source in _SOURCES)
_TYPE_BYTES = tuple(kind.encode() for kind in EVENT_TYPES)
