"""Which events were seen before: a table of identities in 64 parts, each an open addressing table.

22 bytes a slot: 16 of identity, 4 of fingerprint, 2 for the day on which it expires. A part is
filled to 85 % and then grows by two fifths; the parts are of staggered sizes, so that they grow one
after the other, and an identity takes 31 bytes at any time. The slots of a part are in the order
of the identities, so growing walks through memory once.
"""

from __future__ import annotations

from math import ceil, floor, log
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.compiled import compiled
from schemas.decisions import Status

_LOAD_MAX = 0.85
_GROWTH = 1.4
_SMALLEST = 16

#: The parts differ in the first bits of the low half.
_PART_BITS = 6
_PARTS = 1 << _PART_BITS
_PART_SHIFT = np.uint64(64 - _PART_BITS)
#: The 32 bits behind them say where in its part an identity is at home.
_HOME_SHIFT = np.uint64(32 - _PART_BITS)
_HOME_MASK = np.uint64(2**32 - 1)
_HALF = np.uint64(32)
_ORDER_SHIFT = np.uint64(48)

#: A walk through a table goes part by part, each in steps of so many bits of the homes in it.
_STEP_BITS = 16
WALK_END = _PARTS << _STEP_BITS

#: No identity has this expiry: it marks a free slot.
_FREE = np.uint16(0)
_DUPLICATE = np.uint8(Status.DUPLICATE)
_CONFLICT = np.uint8(Status.CONFLICT)

_SLOT = np.dtype(
    [("high", np.uint64), ("low", np.uint64), ("fingerprint", np.uint32), ("expires", np.uint16)]
)
_RAW = np.dtype((np.void, _SLOT.itemsize))

#: High and low half, fingerprint, expiry: one row an identity.
Columns: TypeAlias = tuple[
    NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint32], NDArray[np.uint16]
]
_Slots: TypeAlias = NDArray[np.void]


class IdTable:
    """Identities with their fingerprint and the last day on which a copy could still count."""

    def __init__(self) -> None:
        self._parts: list[_Slots] = [_empty(_capacity(part, 0)) for part in range(_PARTS)]
        self._counts = np.zeros(_PARTS, dtype=np.int64)
        self._room = np.array([_room(len(slots)) for slots in self._parts])
        #: What expired before this day may be dropped; the next part to look at, of so many.
        self._day = 0
        self._swept = 0
        self._unswept = 0
        # The first table of a process waits for its machine code, and no step does.
        self._rebuild(0, self._parts[0], 0)
        nothing = _columns(self._parts[0][:0])
        self.claim(nothing, nothing[3])

    def __len__(self) -> int:
        return int(self._counts.sum())

    @property
    def slots(self) -> int:
        """How many identities would fill the table to the last slot; it grows before that."""
        return sum(map(len, self._parts))

    @property
    def bytes_held(self) -> int:
        """Memory of the table, in bytes."""
        return sum(part.nbytes for part in self._parts)

    def claim(self, columns: Columns, today: NDArray[np.uint16]) -> NDArray[np.uint8]:
        """Claim the identities of events, in order; all arrays have shape (n,).

        The expiry (at least 1) is the last day, since 1970, on which a copy of the event could
        count; `today` is the day of the log when it arrived. An identity whose day has passed is
        forgotten. Returns for each event `ACCEPTED` if it is the first of its identity,
        `DUPLICATE` for a copy, `CONFLICT` for another fingerprint under a known identity.
        """
        status = np.zeros(len(today), dtype=np.uint8)
        order, bounds = _by_part(columns[1])
        self._reserve(np.diff(bounds))
        _claim(tuple(self._parts), *columns, today, order, bounds, status, self._counts)
        return status

    def grow(self, slots: int) -> None:
        """Have about so many slots, at once instead of step by step."""
        # As many as that are filled by identities that are spread evenly, part by part.
        identities = slots * _LOAD_MAX * log(_GROWTH) / (_GROWTH - 1) / _PARTS
        self._reserve(np.maximum(int(identities) - self._counts, 0))

    def insert(self, columns: Columns) -> None:
        """Insert identities that differ from each other; one that is known is replaced."""
        never = np.full(len(columns[1]), np.iinfo(np.uint16).max, dtype=np.uint16)
        self.claim(columns, never)

    def walk(self, begin: int, identities: int) -> tuple[Columns, int]:
        """About so many identities, from place `begin` of a walk on, and the place to go on from.

        A walk from 0 to `WALK_END` finds each identity that was there when it began, whatever is
        claimed meanwhile and however much the table grows; some it finds twice.
        """
        found: list[_Slots] = []
        at = begin
        while at < WALK_END and identities > 0:
            part, first = divmod(at, 1 << _STEP_BITS)
            steps = -(-(identities << _STEP_BITS) // max(int(self._counts[part]), 1))
            last = min(first + steps, 1 << _STEP_BITS)
            found.append(_between(self._parts[part], first, last))
            identities -= len(found[-1])
            at += last - first
        # As bytes: numpy would copy field by field, which takes thirty times as long.
        pieces = np.concatenate([piece.view(_RAW) for piece in found] or [_empty(0).view(_RAW)])
        return _columns(pieces.view(_SLOT)), at

    def forget_before(self, day: int) -> None:
        """Leave what expired before `day` to `sweep`; nobody asks for an earlier day any more."""
        self._day = day
        self._unswept = _PARTS

    def sweep(self, slots: int) -> None:
        """Drop what may be forgotten from about so many slots, and give their memory back.

        Goes part by part and on where it left off, so that no batch waits for all of them.
        """
        while self._unswept and slots > 0:
            part, held = self._swept, self._parts[self._swept]
            is_alive = held["expires"] >= max(self._day, 1)
            alive = int(np.count_nonzero(is_alive))
            if alive < self._counts[part]:
                self._rebuild(part, held[is_alive], alive)
            slots -= len(held)
            self._swept = (part + 1) % _PARTS
            self._unswept -= 1

    def _reserve(self, more: NDArray[np.int64]) -> None:
        """Have room for `more` identities in each part."""
        needed = self._counts + more
        for part in np.flatnonzero(needed > self._room).tolist():
            self._rebuild(part, self._parts[part], int(needed[part]))

    def _rebuild(self, part: int, slots: _Slots, identities: int) -> None:
        """Have `slots` alone in a part, with room for so many."""
        self._parts[part] = _empty(_capacity(part, _level(part, identities)))
        self._room[part] = _room(len(self._parts[part]))
        self._counts[part] = _move(slots, self._parts[part])


def _level(part: int, identities: int) -> int:
    """The lowest level at which a part has room for so many identities."""
    level = floor(log(max(identities / _LOAD_MAX / _SMALLEST, 1), _GROWTH) - part / _PARTS)
    while _room(_capacity(part, level)) < identities:
        level += 1
    return max(level, 0)


def _capacity(part: int, level: int) -> int:
    slots: float = _SMALLEST * _GROWTH ** (level + part / _PARTS)
    return ceil(slots)


def _room(slots: int) -> int:
    """How many identities so many slots take."""
    return floor(slots * _LOAD_MAX)


def _empty(slots: int) -> _Slots:
    return np.zeros(slots, dtype=_SLOT)


def _between(slots: _Slots, first: int, last: int) -> _Slots:
    """The identities whose homes are from step `first` to `last` of a part, and some others."""
    begin, end = (step * len(slots) >> _STEP_BITS for step in (first, last))
    # An identity stands behind its home, beyond others without a gap.
    while end < begin + len(slots) and slots[end % len(slots)]["expires"] != _FREE:
        end += 1
    piece = np.take(slots, np.arange(begin, end), mode="wrap")
    taken: _Slots = piece[piece["expires"] != _FREE]
    return taken


def those(columns: Columns, at: slice | NDArray[np.bool_]) -> Columns:
    """The identities that stand there."""
    high, low, fingerprint, expires = columns
    return high[at], low[at], fingerprint[at], expires[at]


def _columns(slots: _Slots) -> Columns:
    names = ("high", "low", "fingerprint", "expires")
    high, low, fingerprint, expires = (np.ascontiguousarray(slots[name]) for name in names)
    return high, low, fingerprint, expires


def _by_part(low: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Events in the order of their homes, and where those of each part begin and end."""
    # A few bits are enough to walk through memory in its order, and are sorted in no time.
    home = (low >> _ORDER_SHIFT).astype(np.uint16)
    order = np.argsort(home, kind="stable")
    begins = np.arange(_PARTS + 1) << (16 - _PART_BITS)
    return order, np.searchsorted(home[order], begins)


@compiled
def _home(low: Any, slots: int) -> Any:
    """D. Lemire, "Fast Random Integer Generation in an Interval" (2019): multiply and shift."""
    return np.int64((((low >> _HOME_SHIFT) & _HOME_MASK) * np.uint64(slots)) >> _HALF)


@compiled
def _claim(
    parts: tuple[_Slots, ...],
    high: NDArray[np.uint64],
    low: NDArray[np.uint64],
    fingerprint: NDArray[np.uint32],
    expires: NDArray[np.uint16],
    today: NDArray[np.uint16],
    order: NDArray[np.int64],
    bounds: NDArray[np.int64],
    status: NDArray[np.uint8],
    counts: NDArray[np.int64],
) -> None:
    """Claim identities, part by part; `order` and `bounds` are those of `_by_part`."""
    for part in range(len(parts)):
        events = order[bounds[part] : bounds[part + 1]]
        counts[part] += _claim_in(
            parts[part], high, low, fingerprint, expires, today, events, status
        )


@compiled
def _claim_in(
    slots: _Slots,
    high: NDArray[np.uint64],
    low: NDArray[np.uint64],
    fingerprint: NDArray[np.uint32],
    expires: NDArray[np.uint16],
    today: NDArray[np.uint16],
    events: NDArray[np.int64],
    status: NDArray[np.uint8],
) -> int:
    """Claim identities in one part, event by event; how many slots were taken for them."""
    taken = 0
    for event in events:
        at = _home(low[event], len(slots))
        while slots[at]["expires"] != _FREE and not (
            slots[at]["low"] == low[event] and slots[at]["high"] == high[event]
        ):
            at += 1
            if at == len(slots):
                at = 0
        slot = slots[at]
        if slot["expires"] != _FREE and slot["expires"] >= today[event]:
            is_copy = slot["fingerprint"] == fingerprint[event]
            status[event] = _DUPLICATE if is_copy else _CONFLICT
            continue
        if slot["expires"] == _FREE:
            taken += 1
        slot["high"] = high[event]
        slot["low"] = low[event]
        slot["fingerprint"] = fingerprint[event]
        slot["expires"] = expires[event]
    return taken


@compiled
def _move(source: _Slots, target: _Slots) -> int:
    """Put all identities of `source` into `target`, which is empty; how many there are."""
    count = 0
    for index in range(len(source)):
        if source[index]["expires"] == _FREE:
            continue
        at = _home(source[index]["low"], len(target))
        while target[at]["expires"] != _FREE:
            at += 1
            if at == len(target):
                at = 0
        target[at] = source[index]
        count += 1
    return count
