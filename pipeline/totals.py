"""Totals as columns, a row each, in the order in which they came into being.

A *sheet* is a meter in one period. Each customer who used the meter in it has one row for the usage
over all groups, and, if the meter has a group_by, one for each group.

Those of many shards stand in one table, because a look at every shard alone costs more than what it
has to count. A shard's *share* are its rows; each has a *place* in it, by which the shard's
changelog knows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.aggregate import Changes, Tally, merged
from pipeline.compiled import compiled
from pipeline.exact import ExactColumn
from pipeline.groups import Groups, first_places
from pipeline.numbering import Numbering
from pipeline.row_index import RowIndex
from pipeline.text_numbering import TextNumbering
from schemas.meter import Aggregation
from schemas.plan import Threshold

Rows: TypeAlias = NDArray[np.int64]

#: (meter, period start in ms).
Sheet: TypeAlias = tuple[str, int]

#: (meter, customer, period start in ms, group); group is None for the usage over all groups.
TotalKey: TypeAlias = tuple[str, str, int, tuple[str, ...] | None]

#: The number of no group: the row is the usage over all of them.
ALL_GROUPS = 0

#: What `watch` says of a row: nobody has looked yet; no threshold of the customer's plan is open;
#: the lowest open one is in `open_nanos`.
UNKNOWN, NOTHING, OPEN = 0, 1, 2

_COLUMNS = {
    "events": np.int64,
    # The time of the event that holds a `latest` value.
    "latest_ns": np.int64,
    "as_of_ms": np.int64,
    "sheet": np.int32,
    "customer": np.int32,
    "group": np.int32,
    # Where the usage over all groups stands, which may be the row itself.
    "usage": np.int32,
    # Where the row stands in its share.
    "place": np.int32,
    "fired": np.int32,
    "watch": np.int8,
}
_ROWS_AT_FIRST = 256

#: Stands for the sheet of a row of which nobody has said yet what it is.
_UNNAMED = -1


class ByShare(NamedTuple):
    """Rows share by share, those of each ascending; and (share, begin, end) of each share."""

    rows: Rows
    shares: list[tuple[int, int, int]]


class Totals:
    """What has been counted, by row number. Rows are added and changed, never taken away."""

    def __init__(self, shares: int = 1) -> None:
        self.sheets: Numbering[Sheet] = Numbering()
        self.customers = TextNumbering()
        self.groups: Numbering[tuple[str, ...] | None] = Numbering([None])
        #: Combinations of crossed thresholds, by name.
        self.crossed: Numbering[tuple[Threshold, ...]] = Numbering([()])
        self.nanos = ExactColumn()
        self.open_nanos = ExactColumn()
        # An array each: from records, numpy takes six times as long to pick rows of a column.
        self._columns = {name: np.zeros(0, dtype) for name, dtype in _COLUMNS.items()}
        self._count = 0
        self._usage = RowIndex()
        self._groups = RowIndex()
        #: How many rows each share has.
        self._sizes = np.zeros(shares, dtype=np.int64)
        #: The share of each customer who has a number.
        self._homes = np.zeros(_ROWS_AT_FIRST, dtype=np.int64)

    @classmethod
    def joined(cls, parts: Iterable[tuple[Totals, int]]) -> Self:
        """A table of shares that stood in others; each becomes the one of its place in `parts`."""
        shares = list(parts)
        table = cls(len(shares))
        for share, (other, theirs) in enumerate(shares):
            table._take(share, other, other.of_share(theirs))
        table.connect()
        return table

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, column: str) -> NDArray[Any]:
        """One column of all rows, to be read and written."""
        return self._columns[column][: self._count]

    def size(self, share: int) -> int:
        """How many rows a share has."""
        return int(self._sizes[share])

    def enter(self, names: pa.StringArray, shares: Rows | int) -> Rows:
        """The numbers of n customers, who from now on belong to these shares."""
        customers = self.customers.numbers(names)
        if len(self.customers) > len(self._homes):
            grown = np.zeros(2 * len(self.customers), dtype=np.int64)
            grown[: len(self._homes)] = self._homes
            self._homes = grown
        self._homes[customers] = shares
        return customers

    def shares(self, customers: Rows) -> Rows:
        """The shares of customers, by their numbers; -1 for the number -1."""
        return np.where(customers < 0, -1, self._homes[customers])

    def of_share(self, share: int) -> Rows:
        """The rows of a share."""
        return _walk(self["customer"], self._homes, share, 0, self._count, self._count)[0]

    def by_share(self, rows: Rows) -> ByShare:
        """`rows`, which ascend, share by share."""
        groups = Groups(self._homes[self["customer"][rows]])
        places = zip(
            groups.distinct.tolist(), groups.begins.tolist(), groups.ends.tolist(), strict=True
        )
        return ByShare(rows[groups.order], list(places))

    def walk(self, share: int, begin: int, end: int, count: int) -> tuple[Rows, int]:
        """At most `count` rows of a share, from row `begin` on, and the row to go on from.

        Looks at as many rows as would have that many if all shares were of one size.
        """
        end = min(end, begin + count * len(self._sizes))
        return _walk(self["customer"], self._homes, share, begin, end, count)

    def rows(self, sheets: Rows, customers: Rows, groups: Rows) -> Rows:
        """The rows of distinct totals, by numbers; those that are new are added, in this order.

        A total's usage over all groups must be known, or stand among them; and each customer has
        a share.
        """
        is_usage = groups == ALL_GROUPS
        of_customer = sheets << 32 | customers
        usage = self._usage.find(of_customer)
        rows = np.where(is_usage, usage, -1)
        if not is_usage.all():
            known = ~is_usage & (usage >= 0)
            rows[known] = self._groups.find(usage[known] << 32 | groups[known])
        new = np.flatnonzero(rows < 0)
        if not len(new):
            return rows
        rows[new] = np.arange(self._count, self._count + len(new))
        added = new[is_usage[new]]
        self._usage.add(of_customer[added], rows[added])
        grouped = new[~is_usage[new]]
        if len(grouped):
            usage[grouped] = self._usage.find(of_customer[grouped])
            self._groups.add(usage[grouped] << 32 | groups[grouped], rows[grouped])
        usage[added] = rows[added]
        self._append(
            sheet=sheets[new], customer=customers[new], group=groups[new], usage=usage[new]
        )
        return rows

    def hold(self, rows: Rows) -> None:
        """Have room up to the last of `rows`; whose totals new ones are may be said later."""
        new = int(rows.max(initial=-1)) + 1 - self._count
        if new > 0:
            self._append(sheet=np.full(new, _UNNAMED))

    def connect(self) -> None:
        """Make rows that were held be found by what they are the totals of.

        Raises:
            ValueError: of some that was never said.
        """
        sheets, customers, groups = (
            self[name].astype(np.int64) for name in ("sheet", "customer", "group")
        )
        if (sheets == _UNNAMED).any():
            raise ValueError("whose totals some are was never said")
        rows = np.arange(self._count)
        is_usage = groups == ALL_GROUPS
        of_customer = sheets << 32 | customers
        self._usage, self._groups = RowIndex(), RowIndex()
        self._usage.add(of_customer[is_usage], rows[is_usage])
        usage = self._usage.find(of_customer)
        if (usage < 0).any():
            raise ValueError("a group has no usage over all groups")
        self["usage"][:] = usage
        self._groups.add((usage << 32 | groups)[~is_usage], rows[~is_usage])

    def merge(self, rows: Rows, changes: Changes, aggregation: Aggregation) -> None:
        """Add to the totals in `rows` what came later in the log, one change each."""
        events, latest_ns, as_of_ms = self["events"], self["latest_ns"], self["as_of_ms"]
        is_new = events[rows] == 0
        is_later = is_new | (changes.latest_ns >= latest_ns[rows])
        before = self.nanos.read(rows)
        after = merged(aggregation, before, changes.nanos, is_new=is_new, is_later=is_later)
        self.nanos.write(rows, after)
        events[rows] += changes.events
        latest_ns[rows] = np.where(is_later, changes.latest_ns, latest_ns[rows])
        as_of_ms[rows] = np.where(
            is_new, changes.as_of_ms, np.maximum(as_of_ms[rows], changes.as_of_ms)
        )

    def forget_limits(self, share: int) -> None:
        """Other limits hold for a share from now on."""
        self["watch"][self.of_share(share)] = UNKNOWN

    def keys(self, rows: Rows) -> list[TotalKey]:
        """Which totals stand in rows."""
        customers = self.customers.column(self["customer"][rows]).to_pylist()
        sheets, groups = self["sheet"][rows].tolist(), self["group"][rows].tolist()
        return [
            (meter, customer, start_ms, self.groups[group])
            for (meter, start_ms), customer, group in zip(
                map(self.sheets.__getitem__, sheets), customers, groups, strict=True
            )
        ]

    def tallies(self, rows: Rows) -> list[Tally | None]:
        """What stands in rows; None where nothing was counted yet."""
        columns = (self[name][rows].tolist() for name in ("events", "latest_ns", "as_of_ms"))
        return [
            Tally(nanos, events, latest_ns, as_of_ms) if events else None
            for nanos, events, latest_ns, as_of_ms in zip(
                self.nanos.read(rows).tolist(), *columns, strict=True
            )
        ]

    def fired(self, rows: Rows) -> list[tuple[Threshold, ...]]:
        """The thresholds that usages have crossed, sorted by name."""
        return [self.crossed[number] for number in self["fired"][rows].tolist()]

    def all_fired(self) -> Iterator[tuple[TotalKey, tuple[Threshold, ...]]]:
        """Every usage that has crossed any threshold, and which ones."""
        rows = np.flatnonzero(self["fired"])
        return zip(self.keys(rows), self.fired(rows), strict=True)

    def _take(self, share: int, other: Totals, rows: Rows) -> None:
        """Add what stands in some rows of another table as a share; `connect` makes it be found."""
        sheets, customers, groups, fired = (
            other[name][rows].astype(np.int64) for name in ("sheet", "customer", "group", "fired")
        )
        occurring = Groups(customers)
        own = self.enter(other.customers.column(occurring.distinct), share)
        begin = self._count
        self._append(
            sheet=self.sheets.translated(other.sheets, sheets),
            customer=own[occurring.numbers],
            group=self.groups.translated(other.groups, groups),
            fired=self.crossed.translated(other.crossed, fired),
            events=other["events"][rows],
            latest_ns=other["latest_ns"][rows],
            as_of_ms=other["as_of_ms"][rows],
        )
        self.nanos.write(np.arange(begin, self._count), other.nanos.read(rows))

    def _append(self, **columns: Rows) -> None:
        begin, end = self._count, self._count + len(columns["sheet"])
        if end > len(self._columns["sheet"]):
            self._reserve(max(end, 2 * begin, _ROWS_AT_FIRST))
        for name, column in columns.items():
            self._columns[name][begin:end] = column
        self._count = end
        shares = Groups(self._homes[self["customer"][begin:end]])
        before = self._sizes[shares.distinct] - shares.begins
        self["place"][begin + shares.order] = np.arange(end - begin) + np.repeat(
            before, shares.sizes
        )
        self._sizes[shares.distinct] += shares.sizes

    def _reserve(self, rows: int) -> None:
        """Have room for so many rows."""
        for name, column in self._columns.items():
            grown = np.zeros(rows, dtype=column.dtype)
            grown[: self._count] = column[: self._count]
            self._columns[name] = grown
        self.nanos.reserve(rows)
        self.open_nanos.reserve(rows)


def distinct(rows: list[Rows]) -> Rows:
    """The rows that occur in any of `rows`, ascending."""
    ordered = np.sort(np.concatenate([np.zeros(0, dtype=np.int64), *rows]))
    return ordered[first_places(ordered)]


@compiled
def _walk(
    customers: NDArray[np.int32], homes: Rows, share: int, begin: int, end: int, count: int
) -> tuple[Rows, int]:
    """The first `count` rows from `begin` to before `end` whose customers have a home in `share`.

    Returns them, and the row after the last that was looked at.
    """
    rows = np.empty(min(count, end - begin), dtype=np.int64)
    found = 0
    row = begin
    while row < end and found < count:
        if homes[customers[row]] == share:
            rows[found] = row
            found += 1
        row += 1
    return rows[:found], row
