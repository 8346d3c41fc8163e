"""Tally: a fold over one shard's log. Packs and definitions in; decisions, totals, alerts out.

Each event is decided once, in this order: seen before (duplicate, or conflict if it says something
else), customer unknown, too late for all its meters, else accepted. It reads no clock: what is late
follows from when its Kafka record arrived, so a replay decides the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
import pyarrow as pa
from msgspec import structs
from numpy.typing import NDArray

from pipeline.batch import Batch
from pipeline.count import Counting
from pipeline.cross import Crosser
from pipeline.errors import Stop
from pipeline.limits import Limits
from pipeline.pack import Pack
from pipeline.periods import DAY_MS
from pipeline.record import Outgoing
from pipeline.route import Router, require_home
from pipeline.shard import Changed, Shard, read_document, segment, snapshot
from schemas import topics
from schemas.decisions import LATE_COLUMNS, STATUS_COLUMNS, Status
from schemas.definitions import Definitions
from schemas.frame import Frame, Kind, seal
from schemas.meter import Meter, Period

#: A copy of an event is recognised for at least this long, and as long as it could still count.
DEDUPE_DAYS = 35

#: Arrival times may run behind the newest one by this much and still find their identities.
DISORDER_DAYS = 35

_LAST_DAY = int(np.iinfo(np.uint16).max)

#: A snapshot is due when reading what came after the last one takes as long as reading this many
#: identities, or as reading the snapshot itself.
_SNAPSHOT_IDS = 200_000

#: A piece of a snapshot has about so many identities and totals, at least, and so many slots are
#: looked at for what can be forgotten: each takes some milliseconds.
_PIECE_IDS = 16_384

_MISROUTED = (
    "Find out what else writes to usage.metered, or with which number of shards intake ran: the "
    "topic was filled for another one. Start from a backup of this deployment."
)

_NONE_LATE = pa.RecordBatch.from_pylist([], schema=LATE_COLUMNS)

_EVENTS_AT_ONCE = 16_384

#: A segment takes as long to open as this many identities to restore (measured: 0.2 ms, 1 us).
_SEGMENT_IDS = 200


class TallyShard:
    """One shard being counted."""

    def __init__(self, number: int, shard: Shard, router: Router | None = None) -> None:
        """`router` says which customers belong here; without one, whoever comes."""
        self._number = number
        self._shard = shard
        self._router = router
        self._crosser: Crosser | None = None

    @property
    def state(self) -> Shard:
        """What the shard remembers."""
        return self._shard

    def step(self, log: Sequence[tuple[int, Frame]]) -> list[Outgoing]:
        """Count the next records of the shard's log, (offset, frame) each, in order.

        Raises:
            Stop: a pack names definitions that the log never announced, or has customers of another
                shard; or definitions are from the future.
        """
        changed = Changed(self._shard.next_offset, len(self._shard.totals))
        outgoing: list[Outgoing] = []
        for (kind, version), run in groupby(log, key=_kind_and_version):
            if kind is Kind.DEFINITIONS:
                for offset, frame in run:
                    self._define(offset, frame, changed)
            else:
                outgoing += self._count(version, list(run), changed)
        self._shard.ids.sweep(_piece(changed.id_count))
        self._shard.next_offset = log[-1][0] + 1
        self._shard.since_snapshot += _SEGMENT_IDS + changed.id_count
        outgoing += [self._state_record(frame) for frame in segment(self._shard, changed)]
        outgoing += self._snapshot_if_due(changed.id_count)
        return outgoing

    def _define(self, offset: int, frame: Frame, changed: Changed) -> None:
        version = frame.header["version"]
        if version not in self._shard.documents:
            document = read_document(frame.header["document"], self._place(offset))
            self._shard.documents[version] = document
            changed.documents.append(version)
        self._shard.current = version
        self._crosser = None

    def _count(
        self, version: str, run: list[tuple[int, Frame]], changed: Changed
    ) -> Iterator[Outgoing]:
        """Count packs that were cut with the same definitions."""
        definitions = self._shard.documents.get(version)
        current = self._shard.documents.get(self._shard.current or "")
        if definitions is None or current is None:
            raise Stop(
                f"{self._place(run[0][0])} has a pack cut with definitions {version}, which its "
                "log never announced.",
                remedy="Restore usage.tally.state and usage.metered from one backup.",
            )
        if self._crosser is None:
            self._crosser = Crosser(self._shard.totals, Limits(current))
        counting = Counting(self._shard.totals, self._crosser)
        for part in _parts([(offset, Pack(frame)) for offset, frame in run]):
            batch = Batch([pack for _, pack in part])
            yield from self._count_part(part, batch, definitions, current, counting, changed)
            yield from self._crosser.alerts(batch)
        for frame in counting.frames(version=run[-1][0]):
            yield Outgoing(topics.TOTALS.name, frame, partition=self._number)
        changed.totals += counting.touched

    def _count_part(
        self,
        packs: Sequence[tuple[int, Pack]],
        batch: Batch,
        definitions: Definitions,
        current: Definitions,
        counting: Counting,
        changed: Changed,
    ) -> Iterator[Outgoing]:
        """Decide on the events of some packs and count them."""
        self._require_home(packs, batch, counting.begin(batch))
        today = self._advance_watermark(packs, batch)
        ids = (*batch.ids, self._expiry(definitions, batch, today))
        status = self._shard.ids.claim(ids, today)
        claimed = status == Status.ACCEPTED
        changed.ids.append((ids[0][claimed], ids[1][claimed], ids[2][claimed], ids[3][claimed]))
        if current.default_plan is None:
            names = batch.customer_names.to_pylist()
            known = np.array([current.knows(name) for name in names], dtype=bool)
            status[claimed & ~known[batch.customers]] = Status.UNKNOWN

        late_for = self._count_in_time(definitions.meters, batch, status, counting)
        for frame in _decisions(packs, status, late_for):
            yield Outgoing(topics.DECISIONS.name, frame, partition=self._number)

    def _count_in_time(
        self,
        meters: Sequence[Meter],
        batch: Batch,
        status: NDArray[np.uint8],
        counting: Counting,
    ) -> list[tuple[str, NDArray[np.int64]]]:
        """Count what is accepted and in time; the events that are so for some meters only.

        What is too late for all meters becomes `LATE` in `status`.
        """
        late_for: list[tuple[str, NDArray[np.int64]]] = []
        too_late = np.zeros(len(status), dtype=bool)
        in_time = np.zeros(len(status), dtype=bool)
        accepted = status == Status.ACCEPTED
        for meter in meters:
            events = np.flatnonzero(accepted & batch.of_type(meter.event_type))
            if not len(events):
                continue
            periods = batch.periods(meter.period)
            closes_ms = periods.ends_ms + meter.grace_ms
            if batch.received_ms.max() > closes_ms.min():
                late = batch.received_ms[events] > closes_ms[periods.codes[events]]
                too_late[events[late]] = True
                late_for.append((meter.slug, events[late]))
                events = events[~late]
            in_time[events] = True
            if len(events):
                counting.count(batch, meter, events)
        status[too_late & ~in_time] = Status.LATE
        return [(slug, events[in_time[events]]) for slug, events in late_for]

    def _require_home(
        self, packs: Sequence[tuple[int, Pack]], batch: Batch, numbers: NDArray[np.int64]
    ) -> None:
        """All customers belong to this shard; those who have totals, and so `numbers`, do."""
        if self._router is not None and (numbers < 0).any():
            strange = batch.customer_names.filter(pa.array(numbers < 0)).to_pylist()
            where = f"{self._place(packs[0][0])} to {packs[-1][0]}"
            require_home(self._router, self._number, strange, where, _MISROUTED)

    def _advance_watermark(
        self, packs: Sequence[tuple[int, Pack]], batch: Batch
    ) -> NDArray[np.uint16]:
        """The day of the log on which each event is looked up, shape (n,)."""
        lengths = np.array([len(pack) for _, pack in packs])
        begins = np.cumsum(lengths) - lengths
        before_ms = self._shard.watermark_ms
        newest_ms = np.maximum.accumulate(np.maximum.reduceat(batch.received_ms, begins))
        watermarks_ms = np.maximum(newest_ms, before_ms)
        self._shard.watermark_ms = int(watermarks_ms[-1])
        if before_ms // DAY_MS < self._shard.watermark_ms // DAY_MS:
            # What is dropped then would be found expired by every event to come.
            self._shard.ids.forget_before(before_ms // DAY_MS - DISORDER_DAYS)
        oldest = np.repeat(watermarks_ms // DAY_MS - DISORDER_DAYS, lengths)
        days = np.maximum(batch.received_ms // DAY_MS, oldest)
        today: NDArray[np.uint16] = np.clip(days, 0, _LAST_DAY).astype(np.uint16)
        return today

    def _expiry(
        self, definitions: Definitions, batch: Batch, today: NDArray[np.uint16]
    ) -> NDArray[np.uint16]:
        """The last day on which a copy of each event must be recognised, shape (n,)."""
        last_day = today.astype(np.int64) + DEDUPE_DAYS
        # One look for each kind of period that an event type has, for the longest grace.
        grace_ms: dict[tuple[str, Period], int] = {}
        for meter in definitions.meters:
            kind = (meter.event_type, meter.period)
            grace_ms[kind] = max(meter.grace_ms, grace_ms.get(kind, 0))
        for (event_type, period), longest_ms in grace_ms.items():
            periods = batch.periods(period)
            closed = (periods.ends_ms + longest_ms) // DAY_MS + 1
            if closed.max() > last_day.min():
                events = np.flatnonzero(batch.of_type(event_type))
                last_day[events] = np.maximum(last_day[events], closed[periods.codes[events]])
        return np.clip(last_day, 1, _LAST_DAY).astype(np.uint16)

    def _place(self, offset: int) -> str:
        return f"{topics.METERED.name}-{self._number} at offset {offset}"

    def _state_record(self, frame: bytes) -> Outgoing:
        return Outgoing(topics.TALLY_STATE.name, frame, partition=self._number)

    def _snapshot_if_due(self, id_count: int) -> Iterator[Outgoing]:
        """A piece of a snapshot, after a step that claimed so many identities."""
        shard = self._shard
        begins = shard.walk is None
        # Half of what is held: then it had grown from the other half since the last snapshot.
        held = len(shard.ids) + len(shard.totals)
        if begins and shard.since_snapshot < max(_SNAPSHOT_IDS, held / 2):
            return
        frames = list(snapshot(shard, _piece(id_count)))
        for frame in frames:
            yield structs.replace(
                self._state_record(frame),
                begins=begins and frame is frames[0],
                completes=shard.walk is None and frame is frames[-1],
            )


def _piece(id_count: int) -> int:
    """How much of a shard a step walks through, in which it grew by so many identities.

    Twice as fast as it grows, or a walk would never end.
    """
    return max(_PIECE_IDS, 2 * id_count)


def _parts(packs: Sequence[tuple[int, Pack]]) -> Iterator[Sequence[tuple[int, Pack]]]:
    """Consecutive packs, so many that their columns stay in the processor's cache."""
    begin = events = 0
    for at, (_, pack) in enumerate(packs):
        if events and events + len(pack) > _EVENTS_AT_ONCE:
            yield packs[begin:at]
            begin, events = at, 0
        events += len(pack)
    yield packs[begin:]


def _decisions(
    packs: Sequence[tuple[int, Pack]],
    status: NDArray[np.uint8],
    late_for: Sequence[tuple[str, NDArray[np.int64]]],
) -> Iterator[bytes]:
    """The decisions on each pack."""
    begin = 0
    for offset, pack in packs:
        end = begin + len(pack)
        statuses = pa.RecordBatch.from_arrays([pa.array(status[begin:end])], schema=STATUS_COLUMNS)
        late = _late_rows(begin, end, late_for) if late_for else _NONE_LATE
        yield seal(Kind.DECISIONS, {"pack_offset": offset}, [statuses, late])
        begin = end


def _late_rows(
    begin: int, end: int, late_for: Sequence[tuple[str, NDArray[np.int64]]]
) -> pa.RecordBatch:
    late = [
        (row - begin, slug)
        for slug, rows in late_for
        for row in rows[(rows >= begin) & (rows < end)].tolist()
    ]
    columns = [
        pa.array([index for index, _ in late], pa.int32()),
        pa.array([slug for _, slug in late], pa.string()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=LATE_COLUMNS)


def _kind_and_version(entry: tuple[int, Frame]) -> tuple[Kind, str]:
    frame = entry[1]
    if frame.kind is Kind.PACK:
        return frame.kind, frame.header["definitions"]
    if frame.kind is Kind.DEFINITIONS:
        return frame.kind, ""
    raise Stop(
        f"usage.metered holds a frame of kind {frame.kind.name}.",
        remedy="Find out what else writes to usage.metered; only intake may.",
    )
