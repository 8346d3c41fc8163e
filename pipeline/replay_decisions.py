"""The live decisions on one shard, beside those of its replay: pack by pack, event by event."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set

from pipeline.difference import Compared, Difference, Differences
from pipeline.pack import Pack, source_indices
from pipeline.reject import Position
from pipeline.replay_frame import number, part
from schemas import topics
from schemas.decisions import LATE_COLUMNS, STATUS_COLUMNS, Status
from schemas.frame import Frame


class LiveDecisions:
    """What usage.decisions holds for one shard, in its order, which is that of the shard's log.

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
        """Decisions on packs at `before` and later are left out."""
        self._shard = shard
        #: The packs of the decisions that were left out; complete after `finish`.
        self.later: set[int] = set()
        self._frames = self._up_to(before, frames)
        self._differences = differences
        self._is_whole = is_whole
        self._next: Frame | None = None

    def _up_to(self, before: int, frames: Iterable[Frame]) -> Iterator[Frame]:
        for frame in frames:
            if _offset(frame) < before:
                yield frame
            else:
                self.later.add(_offset(frame))

    def compare_later(self, packs: Set[int]) -> None:
        """A decision that was left out must be on a pack; `packs` are those from the cut on."""
        for offset in sorted(self.later - packs):
            self._add(offset, "is there, though no pack is")

    def begin_at(self, offset: int) -> None:
        """Skip the decisions on packs before `offset`; to be called first."""
        frames = self._frames
        self._frames = (frame for frame in frames if _offset(frame) >= offset)
        self._advance()

    def compare(self, pack: Pack, shadow: Frame, compared: Compared) -> None:
        """Compare the decisions on the next pack of the log."""
        offset = _offset(shadow)
        while self._next is not None and _offset(self._next) < offset:
            self._surplus(self._next)
        live = self._next
        if live is None or _offset(live) > offset:
            if self._is_whole:
                self._add(offset, "is missing on usage.decisions")
            else:
                compared.uncompared_packs += 1
            return
        # From here on none may be missing.
        self._is_whole = True
        self._advance()
        self._compare_statuses(offset, pack, _statuses(live), _statuses(shadow))
        self._compare_late(offset, pack, _late(live), _late(shadow))

    def finish(self) -> None:
        """Whatever is left decides on nothing that is there."""
        while self._next is not None:
            self._surplus(self._next)

    def _compare_statuses(
        self, offset: int, pack: Pack, live: list[int], shadow: list[int]
    ) -> None:
        if len(live) != len(shadow):
            self._add(offset, f"has {len(live)} statuses for {len(shadow)} events")
        elif live != shadow:
            for row, (theirs, ours) in enumerate(zip(live, shadow, strict=True)):
                if theirs != ours:
                    problem = f"is {_name(theirs)}, should be {_name(ours)}"
                    self._add(offset, f"{_event(pack, row)} {problem}", _customer(pack, row))

    def _compare_late(
        self, offset: int, pack: Pack, live: set[tuple[int, str]], shadow: set[tuple[int, str]]
    ) -> None:
        for row, meter in sorted(live ^ shadow):
            if not 0 <= row < len(pack):
                self._add(offset, f"calls event {row} of {len(pack)} late")
                continue
            is_late = "is not too late" if (row, meter) in shadow else "is too late"
            should = "should be" if (row, meter) in shadow else "should not be"
            self._add(
                offset, f"{_event(pack, row)} {is_late}, {should}", _customer(pack, row), meter
            )

    def _surplus(self, live: Frame) -> None:
        self._add(_offset(live), "is there again, or where no pack is")
        self._advance()

    def _advance(self) -> None:
        self._next = next(self._frames, None)

    def _add(
        self, offset: int, problem: str, customer: str | None = None, meter: str | None = None
    ) -> None:
        self._differences.add(
            Difference(
                what="decision",
                problem=problem,
                shard=self._shard,
                offset=offset,
                customer=customer,
                meter=meter,
            )
        )


def _offset(frame: Frame) -> int:
    return number(frame, "pack_offset", topics.DECISIONS.name)


def _statuses(frame: Frame) -> list[int]:
    statuses: list[int] = (
        part(frame, 0, STATUS_COLUMNS, topics.DECISIONS.name).column("status").to_pylist()
    )
    return statuses


def _late(frame: Frame) -> set[tuple[int, str]]:
    columns = part(frame, 1, LATE_COLUMNS, topics.DECISIONS.name).columns
    return set(zip(*(column.to_pylist() for column in columns), strict=True))


def _event(pack: Pack, row: int) -> str:
    partition = int(pack.numbers("source_partition")[row])
    offset = int(pack.numbers("source_offset")[row])
    index = int(source_indices(pack.batch)[row].as_py())
    return f"event {row}, {Position(partition, offset, index).in_words},"


def _customer(pack: Pack, row: int) -> str:
    customer: str = pack.batch.column("customer")[row].as_py()
    return customer


def _name(status: int) -> str:
    return Status(status).name.lower() if status in list(Status) else f"of status {status}"
