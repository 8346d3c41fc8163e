"""What tally remembers of one shard, and how that travels through its changelog.

A shard is the fold of its log. Every transaction appends one segment with what it changed; now and
then the whole shard is written as a snapshot, which is nothing but segments, the first of which
voids what came before. A restore reads the last snapshot and what follows, and stops at a
segment that does not go on where the one before it ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import ValidationError

from pipeline.aggregate import Tally
from pipeline.dedupe import Columns, IdTable
from pipeline.errors import Stop
from schemas import topics
from schemas.definitions import Definitions
from schemas.frame import Frame, Kind, seal
from schemas.plan import Threshold
from schemas.quantity import from_plain, plain
from schemas.segment import ID_COLUMNS, TOTAL_COLUMNS

#: (meter, customer, period start in ms, group); group is None for the total over all groups.
TotalKey: TypeAlias = tuple[str, str, int, tuple[str, ...] | None]

#: Rows of one frame, and characters of its texts, so that a record stays well below the broker's
#: limit.
_ROWS_MAX = 65_536
_TEXT_MAX = 4 * 1024 * 1024

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
    totals: dict[TotalKey, Tally] = field(default_factory=dict)
    #: Thresholds crossed so far, of totals over all groups that crossed any.
    fired: dict[TotalKey, set[Threshold]] = field(default_factory=dict)

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

    `from_offset` is the shard offset at which the step began.
    """

    from_offset: int = 0
    documents: list[str] = field(default_factory=list)
    ids: list[Columns] = field(default_factory=list)
    totals: set[TotalKey] = field(default_factory=set)

    @property
    def id_count(self) -> int:
        """How many identities were claimed."""
        return sum(len(columns[1]) for columns in self.ids)


def segment(shard: Shard, changed: Changed) -> Iterator[bytes]:
    """The frames that bring a shard from before the step to after it; nearly always one."""
    ids = tuple(np.concatenate(column) for column in zip(*changed.ids, strict=True))
    return _frames(shard, changed.documents, ids, changed.totals, changed.from_offset)


def snapshot(shard: Shard) -> Iterator[bytes]:
    """The whole shard as frames; reading them in order restores it."""
    return _frames(shard, shard.documents, shard.ids.entries(), shard.totals, None)


def table(rows: Sequence[tuple[object, ...]], schema: pa.Schema) -> pa.RecordBatch:
    """Rows in the order of the schema's columns as a record batch.

    A third of the time that pyarrow takes for dictionaries.
    """
    columns = zip(*rows, strict=True) if rows else [()] * len(schema)
    arrays = [pa.array(column, kind) for column, kind in zip(columns, schema.types, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def parts(keys: Iterable[TotalKey]) -> Iterator[list[TotalKey]]:
    """Totals in runs whose rows fit in one record; at least one run, in the order of `keys`."""
    part: list[TotalKey] = []
    text = 0
    for key in keys:
        meter, customer, _, group = key
        size = len(meter) + len(customer) + sum(map(len, group or ()))
        if part and (len(part) == _ROWS_MAX or text + size > _TEXT_MAX):
            yield part
            part, text = [], 0
        part.append(key)
        text += size
    yield part


def _frames(
    shard: Shard,
    documents: Iterable[str],
    ids: tuple[NDArray[Any], ...],
    keys: Iterable[TotalKey],
    from_offset: int | None,
) -> Iterator[bytes]:
    """All that changed since `from_offset`; None for everything there is."""
    # Sorted, so that a replay writes the same bytes.
    of_totals = list(parts(sorted(keys, key=_sort_key)))
    of_ids = [
        tuple(column[begin : begin + _ROWS_MAX] for column in ids)
        for begin in range(0, len(ids[0]) if ids else 0, _ROWS_MAX)
    ]
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
    for part, (id_columns, total_keys) in enumerate(zip_longest(of_ids, of_totals, fillvalue=())):
        yield _seal(
            header | {"part": part, "definitions": known, "reset": reset},
            id_columns,
            [_total_row(shard, key) for key in total_keys],
        )
        known, reset = {}, False


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
        for row in totals.to_pylist():
            _restore_total(shard, row)
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


def _seal(
    header: dict[str, Any], ids: tuple[Any, ...], rows: Sequence[tuple[object, ...]]
) -> bytes:
    id_columns = ids or tuple(np.zeros(0, field.type.to_pandas_dtype()) for field in ID_COLUMNS)
    return seal(
        Kind.SEGMENT,
        header,
        [
            pa.RecordBatch.from_arrays([pa.array(c) for c in id_columns], schema=ID_COLUMNS),
            table(rows, TOTAL_COLUMNS),
        ],
    )


def _total_row(shard: Shard, key: TotalKey) -> tuple[object, ...]:
    """One row of `TOTAL_COLUMNS`."""
    meter, customer, period_start_ms, group = key
    tally = shard.totals[key]
    fired = sorted(shard.fired[key]) if key in shard.fired else ()
    return (
        customer,
        meter,
        period_start_ms,
        group,
        plain(tally.value),
        tally.events,
        tally.latest_ns,
        tally.as_of_ms,
        fired,
    )


def _restore_total(shard: Shard, row: dict[str, Any]) -> None:
    group = None if row["group"] is None else tuple(row["group"])
    key = (row["meter"], row["customer"], row["period_start_ms"], group)
    shard.totals[key] = Tally(
        from_plain(row["value"]), row["events"], row["latest_ns"], row["as_of_ms"]
    )
    if row["fired"]:
        shard.fired[key] = set(row["fired"])


def _sort_key(key: TotalKey) -> tuple[str, str, int, bool, tuple[str, ...]]:
    meter, customer, period_start_ms, group = key
    return meter, customer, period_start_ms, group is not None, group or ()
