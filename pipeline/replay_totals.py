"""The live totals of one shard, beside those of its replay: the newest of each name."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any, NamedTuple, TypeAlias

import pyarrow as pa

from pipeline.difference import Compared, Difference, Differences, instant
from pipeline.replay_frame import number, part
from schemas import topics
from schemas.frame import Frame
from schemas.total import TOTAL_COLUMNS

#: (customer, meter, period start in ms, group as JSON).
Name: TypeAlias = tuple[str, str, int, str]


class Total(NamedTuple):
    """What a total says besides its name; times in milliseconds since 1970."""

    version: int
    period_end_ms: int
    value: str
    usage: str
    events: int
    as_of_ms: int


class LiveTotals:
    """The newest live total of each name, from the frames of one shard of usage.totals in order.

    `is_whole` tells that none were deleted by retention.
    """

    def __init__(
        self,
        shard: int,
        frames: Iterable[Frame],
        before: int,
        differences: Differences,
        *,
        is_whole: bool = True,
    ) -> None:
        """Totals with a version of `before` and more are left out: they may be incomplete."""
        self._shard = shard
        self._differences = differences
        self._newest: dict[Name, Total] = {}
        self._later: list[tuple[Name, int]] = []
        ends = set()
        for frame in frames:
            version = number(frame, "version", topics.TOTALS.name)
            if version < before:
                ends.add(version)
                self._take(frame, version)
            else:
                self._later += ((name, version) for name, _ in totals_in(frame))
        #: Where live steps ended, as far as something was counted in them.
        self.ends = sorted(ends)
        #: Where the newest totals were written.
        self.newest_ends = {total.version for total in self._newest.values()}
        # Of the first version that is left some frames may be gone as well.
        self._whole_after = -1 if is_whole else self.ends[0] if self.ends else before

    def compare(self, shadow: Mapping[Name, Total], begin: int, compared: Compared) -> None:
        """Compare with the newest totals of a replay from offset `begin` of the shard's log."""
        for name, ours in sorted(shadow.items()):
            # Where the replay's step ended earlier, nothing was counted up to the live one's end.
            at = bisect_left(self.ends, ours.version)
            if at < len(self.ends):
                ours = ours._replace(version=self.ends[at])
            theirs = self._newest.get(name)
            if theirs is None and ours.version <= self._whole_after:
                compared.uncompared_totals += 1
                continue
            compared.totals += 1
            if theirs is None:
                self._add(name, f"is missing on usage.totals, should be {ours.value}")
            elif theirs != ours:
                self._add(name, _unequal(theirs, ours))
        for name in sorted(self._newest.keys() - shadow.keys()):
            theirs = self._newest[name]
            if theirs.version >= begin:
                fault = f"is {theirs.value:.100} in version {theirs.version}"
                self._add(name, f"{fault}, though no event in the log counts for it")

    @property
    def later(self) -> set[int]:
        """The versions that were left out."""
        return {version for _, version in self._later}

    def compare_later(self, packs: Set[int]) -> None:
        """A total that was left out must at least name a pack; `packs` are those from the cut on.

        A version from nowhere would hold for ever, since none of live tally's is higher.
        """
        for name, version in self._later:
            if version not in packs:
                self._add(name, f"is there in version {version}, which no pack has as its offset")

    def _take(self, frame: Frame, version: int) -> None:
        for name, total in totals_in(frame):
            known = self._newest.get(name)
            if known is not None and known.version >= version:
                self._add(name, f"version {version} was written after version {known.version}")
            else:
                self._newest[name] = total

    def _add(self, name: Name, problem: str) -> None:
        customer, meter, start_ms, group = name
        self._differences.add(
            Difference(
                what="total",
                problem=problem,
                shard=self._shard,
                customer=customer,
                meter=meter,
                period_start=instant(start_ms),
                group=group,
            )
        )


def totals_in(frame: Frame) -> Iterator[tuple[Name, Total]]:
    """The totals in a frame.

    Raises:
        Stop: there are none in it.
    """
    version = number(frame, "version", topics.TOTALS.name)
    columns = [
        column.cast(pa.int64()).to_pylist()
        if pa.types.is_timestamp(column.type)
        else column.to_pylist()
        for column in part(frame, 0, TOTAL_COLUMNS, topics.TOTALS.name).columns
    ]
    for customer, meter, start, end, group, value, usage, events, as_of in zip(
        *columns, strict=True
    ):
        yield (customer, meter, start, group), Total(version, end, value, usage, events, as_of)


def _unequal(theirs: Total, ours: Total) -> str:
    """Which fields differ, in words."""

    def text(name: str, value: Any) -> str:
        return instant(value) if name.endswith("_ms") else f"{value!s:.100}"

    return "; ".join(
        f"{name.removesuffix('_ms').replace('_', ' ')} is {text(name, live)}, "
        f"should be {text(name, shadow)}"
        for name, live, shadow in zip(Total._fields, theirs, ours, strict=True)
        if live != shadow
    )
