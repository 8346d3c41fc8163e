"""What tally remembers of one shard, and how that travels through its changelog.

A shard is the fold of its log. Every transaction appends one segment with what it changed; now and
then the whole shard is repeated as a snapshot, piece by piece, so that no transaction takes long
because the shard is large. A restore reads from the begin of the last complete snapshot on, and
stops at a segment that does not go on where the one before it ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import ValidationError

from pipeline.dedupe import WALK_END, Columns, IdTable
from pipeline.errors import Stop
from pipeline.total_columns import keep, kept
from pipeline.totals import Totals
from schemas import topics
from schemas.definitions import Definitions
from schemas.frame import Frame, Kind, seal
from schemas.segment import ID_COLUMNS, TOTAL_COLUMNS

#: More than there can be.
_ALL = 2**62

#: Identities of one frame, so that a record stays well below the broker's limit.
_IDS_MAX = 65_536

_NO_IDS, _NO_TOTALS = (
    pa.RecordBatch.from_pylist([], schema=columns) for columns in (ID_COLUMNS, TOTAL_COLUMNS)
)

_RESTORE = (
    f"Restore {topics.TALLY_STATE.name} from a backup of this deployment that is as new as the "
    "offsets of tally's group."
)


class Walk(NamedTuple):
    """How far a snapshot has come: its place among the identities, and the next row of the totals.

    Rows from `totals_end` on came into being since it began, so the segments have them; what
    reading those took before, `since_snapshot`, it makes good.
    """

    ids_at: int
    totals_at: int
    totals_end: int
    since_snapshot: int


@dataclass
class Shard:
    """The state of one shard."""

    #: Which shard, and of how many; None before anybody has said so.
    number: int | None = None
    shards: int | None = None
    next_offset: int = 0
    #: The newest arrival seen, in milliseconds since 1970.
    watermark_ms: int = 0
    #: What reading the changelog after the last snapshot takes, in identities and totals.
    since_snapshot: int = 0
    documents: dict[str, Definitions] = field(default_factory=dict)
    current: str | None = None
    ids: IdTable = field(default_factory=IdTable)
    #: A table with what it has counted, and which share of it that is.
    totals: Totals = field(default_factory=Totals)
    share: int = 0
    #: How far a snapshot has come that is being written, if one is.
    walk: Walk | None = None

    def belong_to(self, number: int, shards: int) -> None:
        """This is shard `number` of `shards`.

        Raises:
            Stop: it was another one so far, with other customers.
        """
        if self.number is not None and (self.number, self.shards) != (number, shards):
            raise Stop(
                f"{topics.TALLY_STATE.name}-{number} has the state of shard {self.number} of "
                f"{self.shards}, but this is shard {number} of {shards}.",
                remedy=_RESTORE,
            )
        self.number, self.shards = number, shards


@dataclass
class Changed:
    """What one step changed in a shard; becomes a segment.

    `from_offset` is the shard offset at which the step began; `totals` are as `kept` has them.
    """

    from_offset: int = 0
    documents: list[str] = field(default_factory=list)
    ids: list[Columns] = field(default_factory=list)
    totals: list[pa.RecordBatch] = field(default_factory=list)

    @property
    def id_count(self) -> int:
        """How many identities were claimed."""
        return sum(len(columns[1]) for columns in self.ids)

    @property
    def total_count(self) -> int:
        """How many totals changed."""
        return sum(map(len, self.totals))


def segment(shard: Shard, changed: Changed) -> Iterator[bytes]:
    """The frames that bring a shard from before the step to after it; nearly always one."""
    ids = tuple(np.concatenate(column) for column in zip(*changed.ids, strict=True))
    return _frames(shard, changed.documents, ids, changed.totals, changed.from_offset)


def snapshot(shard: Shard, count: int = _ALL) -> Iterator[bytes]:
    """The next piece of a snapshot as frames, of about `count` identities and as many totals.

    By default all of it, or what is left.
    """
    begins = shard.walk is None
    walk = shard.walk or Walk(0, 0, len(shard.totals), shard.since_snapshot)
    ids, ids_at = shard.ids.walk(walk.ids_at, count)
    rows, totals_at = shard.totals.walk(shard.share, walk.totals_at, walk.totals_end, count)
    completes = ids_at == WALK_END and totals_at == walk.totals_end
    if completes:
        shard.since_snapshot -= walk.since_snapshot
        shard.walk = None
    else:
        shard.walk = walk._replace(ids_at=ids_at, totals_at=totals_at)
    return _frames(
        shard,
        shard.documents if begins else (),
        ids,
        kept(shard.totals, rows).parts(),
        shard.next_offset,
        begins=begins,
        completes=completes,
    )


def _frames(
    shard: Shard,
    documents: Iterable[str],
    ids: tuple[NDArray[Any], ...],
    totals: Iterable[pa.RecordBatch],
    from_offset: int,
    *,
    begins: bool = False,
    completes: bool = False,
) -> Iterator[bytes]:
    """All that changed since `from_offset`, or a piece of what is known."""
    of_totals = list(totals) or [_NO_TOTALS]
    of_ids = list(_id_parts(ids))
    # A document each, as a snapshot has all that ever were in force.
    known = [{version: shard.documents[version].model_dump(mode="json")} for version in documents]
    count = max(len(of_ids), len(of_totals), len(known))
    header: dict[str, Any] = {
        "shard": shard.number,
        "shards": shard.shards,
        "from_offset": from_offset,
        "next_offset": shard.next_offset,
        "parts": count,
        "watermark_ms": shard.watermark_ms,
        "since_snapshot": shard.since_snapshot,
        "current": shard.current,
        "slots": shard.ids.slots,
    }
    for part, (some_ids, some_totals, document) in enumerate(zip_longest(of_ids, of_totals, known)):
        place = {
            "part": part,
            "definitions": document or {},
            "begins": begins and part == 0,
            "completes": completes and part == count - 1,
        }
        yield seal(Kind.SEGMENT, header | place, [some_ids or _NO_IDS, some_totals or _NO_TOTALS])


def _id_parts(ids: tuple[NDArray[Any], ...]) -> Iterator[pa.RecordBatch]:
    """Identities in parts that fit in one record."""
    for begin in range(0, len(ids[0]) if ids else 0, _IDS_MAX):
        columns = [pa.array(column[begin : begin + _IDS_MAX]) for column in ids]
        yield pa.RecordBatch.from_arrays(columns, schema=ID_COLUMNS)


class Restore:
    """Becomes the shard that frames of its changelog describe, which are taken in order.

    Raises:
        Stop: as `take` does.
    """

    def __init__(self, frames: Iterable[Frame] = ()) -> None:
        self._shard = Shard()
        #: The part that must come next; 0 where a change is complete.
        self._part = 0
        self._is_whole: bool | None = None
        for frame in frames:
            self.take(frame)

    @property
    def is_whole(self) -> bool:
        """Whether all that the shard knew is among what was taken."""
        return self._is_whole is not False

    def take(self, frame: Frame) -> None:
        """Take the next frame.

        Raises:
            Stop: one is missing before it, it is of another shard, or it has definitions from the
                future.
        """
        shard, header = self._shard, frame.header
        if self._is_whole is None:
            self._is_whole = not header["begins"]
            if header["begins"]:
                shard.next_offset = header["from_offset"]
                shard.number, shard.shards = header["shard"], header["shards"]
        _require_next(shard, self._part, header)
        self._part = (header["part"] + 1) % header["parts"]
        self._is_whole = self._is_whole or header["completes"]
        shard.number, shard.shards = header["shard"], header["shards"]
        shard.next_offset = header["next_offset"]
        shard.watermark_ms = header["watermark_ms"]
        shard.since_snapshot = header["since_snapshot"]
        shard.current = header["current"]
        for version, document in header["definitions"].items():
            where = f"{_name(header)} up to offset {header['next_offset']}"
            shard.documents[version] = read_document(document, where)
        shard.ids.grow(header["slots"])
        ids, totals = frame.parts
        if ids.num_rows:
            high, low, fingerprint, expires = (column.to_numpy() for column in ids.columns)
            shard.ids.insert((high, low, fingerprint, expires))
        keep(shard.totals, totals)

    def shard(self) -> Shard:
        """The shard as it was after the last frame.

        Raises:
            Stop: some of what it knew was not among the frames.
        """
        name = f"{topics.TALLY_STATE.name}-{self._shard.number}"
        if self._part or not self.is_whole:
            what = "a change" if self._part else "a snapshot"
            raise Stop(f"{name} ends in the middle of {what}.", remedy=_RESTORE)
        try:
            self._shard.totals.connect()
        except ValueError as error:
            raise Stop(f"{name} lacks a segment: {error}.", remedy=_RESTORE) from None
        return self._shard


def read_document(document: object, where: str) -> Definitions:
    """Definitions as they stand in a frame.

    Raises:
        Stop: they have what this program does not know; `where` says where they stand.
    """
    try:
        return Definitions.model_validate(document)
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        raise Stop(
            f"{where} has definitions that this program cannot read: "
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}.",
            remedy="They were written by a newer version of Meterline: upgrade this one.",
        ) from None


def _require_next(shard: Shard, part: int, header: dict[str, Any]) -> None:
    """What a segment says of itself must go on from `shard`, of which `part` comes next."""
    if part:
        follows = (part, shard.next_offset) == (header["part"], header["next_offset"])
    else:
        follows = (0, shard.next_offset) == (header["part"], header["from_offset"])
    if not follows:
        raise Stop(
            f"{_name(header)} lacks a segment: the state has come to offset {shard.next_offset}; "
            f"part {part} should follow, not part {header['part']} of what changed from offset "
            f"{header['from_offset']} to {header['next_offset']}.",
            remedy=_RESTORE,
        )
    if shard.next_offset and (shard.number, shard.shards) != (header["shard"], header["shards"]):
        raise Stop(
            f"{_name(header)} goes on with a segment of shard {header['shard']} of "
            f"{header['shards']}, after those of shard {shard.number} of {shard.shards}.",
            remedy=_RESTORE,
        )


def _name(header: dict[str, Any]) -> str:
    return f"{topics.TALLY_STATE.name}-{header['shard']}"
