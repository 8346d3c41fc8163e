"""What tally remembers of one shard, and how that travels through its changelog.

A shard is the fold of its log. Every transaction appends one segment with what it changed; now and
then the whole shard is written as a snapshot, which is nothing but segments, the first of which
voids what came before. A restore reads the last snapshot and what follows, and stops at a
segment that does not go on where the one before it ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import ValidationError

from pipeline.dedupe import Columns, IdTable
from pipeline.errors import Stop
from pipeline.total_columns import keep, kept
from pipeline.totals import Rows, Totals, distinct
from schemas import topics
from schemas.definitions import Definitions
from schemas.frame import Frame, Kind, seal
from schemas.segment import ID_COLUMNS, TOTAL_COLUMNS

#: Identities of one frame, so that a record stays well below the broker's limit.
_IDS_MAX = 65_536

_NO_IDS, _NO_TOTALS = (
    pa.RecordBatch.from_pylist([], schema=columns) for columns in (ID_COLUMNS, TOTAL_COLUMNS)
)

_RESTORE = (
    f"Restore {topics.TALLY_STATE.name} from a backup of this deployment that is as new as the "
    "offsets of tally's group."
)


@dataclass
class Shard:
    """The state of one shard."""

    #: Which shard, and of how many; None before anybody has said so.
    number: int | None = None
    shards: int | None = None
    next_offset: int = 0
    #: The newest arrival seen, in milliseconds since 1970.
    watermark_ms: int = 0
    #: What reading the changelog after the last snapshot takes, in identities.
    since_snapshot: int = 0
    documents: dict[str, Definitions] = field(default_factory=dict)
    current: str | None = None
    ids: IdTable = field(default_factory=IdTable)
    totals: Totals = field(default_factory=Totals)

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

    `from_offset` is the shard offset at which the step began, `from_total` how many totals there
    were; `totals` are rows.
    """

    from_offset: int = 0
    from_total: int = 0
    documents: list[str] = field(default_factory=list)
    ids: list[Columns] = field(default_factory=list)
    totals: list[Rows] = field(default_factory=list)

    @property
    def id_count(self) -> int:
        """How many identities were claimed."""
        return sum(len(columns[1]) for columns in self.ids)


def segment(shard: Shard, changed: Changed) -> Iterator[bytes]:
    """The frames that bring a shard from before the step to after it; nearly always one."""
    ids = tuple(np.concatenate(column) for column in zip(*changed.ids, strict=True))
    totals = kept(shard.totals, distinct(changed.totals), changed.from_total)
    return _frames(shard, changed.documents, ids, totals, changed.from_offset)


def snapshot(shard: Shard) -> Iterator[bytes]:
    """The whole shard as frames; reading them in order restores it."""
    totals = kept(shard.totals, np.arange(len(shard.totals)))
    return _frames(shard, shard.documents, shard.ids.entries(), totals, None)


def _frames(
    shard: Shard,
    documents: Iterable[str],
    ids: tuple[NDArray[Any], ...],
    totals: Iterable[pa.RecordBatch],
    from_offset: int | None,
) -> Iterator[bytes]:
    """All that changed since `from_offset`; None for everything there is."""
    of_totals = list(totals)
    of_ids = list(_id_parts(ids))
    count = max(len(of_ids), len(of_totals))
    header: dict[str, Any] = {
        "shard": shard.number,
        "shards": shard.shards,
        "from_offset": from_offset or 0,
        "next_offset": shard.next_offset,
        "parts": count,
        "watermark_ms": shard.watermark_ms,
        "since_snapshot": shard.since_snapshot,
        "current": shard.current,
        "slots": shard.ids.slots,
    }
    # Only the first one has the definitions, and voids what came before.
    known = {version: shard.documents[version].model_dump(mode="json") for version in documents}
    reset = from_offset is None
    for part, (some_ids, some_totals) in enumerate(zip_longest(of_ids, of_totals)):
        yield seal(
            Kind.SEGMENT,
            header | {"part": part, "definitions": known, "reset": reset},
            [some_ids or _NO_IDS, some_totals or _NO_TOTALS],
        )
        known, reset = {}, False


def _id_parts(ids: tuple[NDArray[Any], ...]) -> Iterator[pa.RecordBatch]:
    """Identities in parts that fit in one record."""
    for begin in range(0, len(ids[0]) if ids else 0, _IDS_MAX):
        columns = [pa.array(column[begin : begin + _IDS_MAX]) for column in ids]
        yield pa.RecordBatch.from_arrays(columns, schema=ID_COLUMNS)


def restore(frames: Iterable[Frame]) -> Shard:
    """The shard that `frames` of its changelog describe.

    Raises:
        Stop: one is missing, is of another shard, or has definitions from the future.
    """
    shard = Shard()
    #: The part that must come next; 0 where a change is complete.
    part = 0
    for frame in frames:
        header = frame.header
        if header["reset"]:
            shard, part = Shard(), 0
        _require_next(shard, part, header)
        part = (header["part"] + 1) % header["parts"]
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
        try:
            keep(shard.totals, totals)
        except ValueError as error:
            raise Stop(f"{_name(header)} lacks a segment: {error}.", remedy=_RESTORE) from None
    if part:
        raise Stop(
            f"{_name(header)} ends in the middle of a change: of its {header['parts']} parts only "
            f"{part} are there.",
            remedy=_RESTORE,
        )
    return shard


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
        begins_at = 0 if header["reset"] else header["from_offset"]
        follows = (0, shard.next_offset) == (header["part"], begins_at)
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
