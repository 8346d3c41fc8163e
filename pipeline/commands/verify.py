"""Verifies the live totals of a Kafka cluster: takes a cut through its topics and replays them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rich.progress import Progress

from pipeline.announced import announced_in_time
from pipeline.difference import Compared, Differences
from pipeline.errors import Stop
from pipeline.noted import Range
from pipeline.open_frame import open_frame
from pipeline.open_message import open_message
from pipeline.pack import Pack
from pipeline.record import Record
from pipeline.replay import Live, replay_shard, restore_after
from pipeline.replay_alerts import LiveAlerts
from pipeline.replay_decisions import LiveDecisions
from pipeline.replay_events import EventsCompared, Taken, by_position
from pipeline.replay_totals import LiveTotals
from pipeline.route import Router
from pipeline.shard import Shard, read_document
from schemas import topics
from schemas.alert import Alert
from schemas.definitions import Definitions
from schemas.frame import Frame, Kind
from streams.cut import Extent, committed, extents, read_between

_SHARDED = (topics.METERED, topics.DECISIONS, topics.TOTALS, topics.TALLY_STATE)


@dataclass(frozen=True)
class Cut:
    """What is compared. `alerts_before` are by shard and were decided before `tally` was asked."""

    shards: int
    #: Up to where tally has confirmed each shard's log, and intake each partition of usage.events.
    tally: list[int | None]
    intake: list[int | None]
    extents: Mapping[str, list[Extent]]
    alerts_before: Mapping[int, list[Alert]]
    alerts_after: Mapping[int, list[Alert]]


def take_cut(kafka: Mapping[str, str], *, with_events: bool) -> Cut:
    """Look up where everything ends, in an order that no transaction can fall through.

    1. Alerts that are decided: what they announce lies before 2.
    2. What the stages have confirmed: all of it had been written before 3.
    3. The ends of decisions, and then of totals, so that no decision is without its total.
    4. The end of the log, so that every decision and every total has its pack.

    Raises:
        Stop: topics are missing, or of different numbers of shards.
        Retry: a transaction stays undecided.
        KafkaException: the broker does not answer.
    """
    before = extents(kafka, [topics.ALERTS.name])
    tally = committed(kafka, "tally", topics.METERED.name)
    intake = committed(kafka, "intake", topics.EVENTS.name) if with_events else []
    found = extents(kafka, [topics.DECISIONS.name])
    names = [topics.TOTALS.name, topics.TALLY_STATE.name, topics.ALERTS.name]
    names += [topics.REJECTED.name] if with_events else []
    found |= extents(kafka, names)
    found |= extents(kafka, [topics.METERED.name])
    found |= extents(kafka, [topics.EVENTS.name] if with_events else [])
    counts = {topic.name: len(found[topic.name]) for topic in _SHARDED}
    if len(set(counts.values())) > 1:
        raise Stop(
            "These topics should have one number of partitions: "
            f"{', '.join(f'{name} has {count}' for name, count in counts.items())}.",
            remedy="The number of shards never changes: find out who changed it, and restore the "
            "topics from one backup.",
        )
    shards = counts[topics.METERED.name]
    later = [
        Extent(first.end, last.end)
        for first, last in zip(before[topics.ALERTS.name], found[topics.ALERTS.name], strict=True)
    ]
    return Cut(
        shards,
        tally,
        intake,
        found,
        _alerts(kafka, before[topics.ALERTS.name], shards),
        _alerts(kafka, later, shards),
    )


def _alerts(
    kafka: Mapping[str, str], places: Iterable[Extent], shards: int
) -> Mapping[int, list[Alert]]:
    """Alerts by shard; their topic is partitioned by customer, but not as shards are."""
    router = Router(shards)
    found = defaultdict(list)
    for partition, (begin, end) in enumerate(places):
        for record in read_between(kafka, topics.ALERTS.name, partition, begin, end):
            alert = open_message(record, Alert)
            found[router[alert.customer]].append(alert)
    return found


@dataclass
class Verification:
    """One run over all shards, one after the other."""

    kafka: Mapping[str, str]
    cut: Cut
    differences: Differences
    compared: Compared = field(default_factory=Compared)
    #: Of intake's work; None where only the log is replayed.
    taken_in: EventsCompared | None = None
    #: What a person should know about what was not compared.
    notes: list[str] = field(default_factory=list)
    _definitions: dict[str, Definitions] = field(default_factory=dict)
    _taken: Taken | None = None

    def run(self, progress: Progress) -> None:
        """Replay everything up to the cut.

        Raises:
            Stop: something cannot be read, or was lost.
            KafkaException: the broker does not answer, or deleted what was about to be read.
        """
        ranges = self._ranges() if self.cut.intake else []
        if ranges:
            self._taken = Taken(ranges, self.differences)
        logs = self.cut.extents[topics.METERED.name]
        total = sum(log.end - log.begin for log in logs)
        task = progress.add_task("counting the shard log", total=total)
        for number in range(self.cut.shards):
            self._shard(number, lambda: progress.advance(task))
        progress.update(task, completed=total)
        if self._taken is not None:
            self._take_in_again(self._taken, ranges, progress)
        self._note_what_was_not_compared()

    def _shard(self, number: int, advance: Callable[[], None]) -> None:
        log = self.cut.extents[topics.METERED.name][number]
        before = self._before(number)
        if before > log.end:
            raise Stop(
                f"The log of shard {number} ends at {log.end}, but tally has counted up to "
                f"{before}.",
                remedy="Restore usage.metered from a backup; it lost records.",
            )
        begin = self._begin(number, log, before)
        if begin is None:
            for _ in self._log(number, log, log.end, log.end, advance):
                pass
            return
        self._definitions |= begin.documents
        totals = self._extent(topics.TOTALS, number)
        decisions = self._extent(topics.DECISIONS, number)
        live = Live(
            LiveTotals(
                number,
                self._frames(topics.TOTALS, number),
                before,
                self.differences,
                is_whole=totals.begin == 0,
            ),
            LiveDecisions(
                number,
                self._frames(topics.DECISIONS, number),
                before,
                self.differences,
                is_whole=decisions.begin == 0,
            ),
            LiveAlerts(
                self.cut.alerts_before.get(number, ()), self.cut.alerts_after.get(number, ())
            ),
        )
        entries = announced_in_time(
            begin.documents,
            self._log(number, log, begin.next_offset, before, advance),
            lambda offset: self._frames(topics.METERED, number, offset),
        )
        found = replay_shard(number, self.cut.shards, begin, entries, live, self.differences)
        self.compared += found
        if live.later:
            later = self._read(topics.METERED, number, Extent(before, log.end))
            live.compare_later({record.offset for record in later if _is_pack(record)})

    def _before(self, number: int) -> int:
        """The cut in a shard's log."""
        confirmed = self.cut.tally[number]
        if confirmed is not None:
            return confirmed
        # The group's offsets expire when no tally has run for a week; its decisions tell as well.
        decided = (f.header["pack_offset"] for f in self._frames(topics.DECISIONS, number))
        return max(decided, default=-1) + 1

    def _begin(self, number: int, log: Extent, before: int) -> Shard | None:
        """Where the replay of a shard begins; None where nothing is left to be replayed."""
        if log.begin == 0:
            return Shard()
        # A position may lie behind markers of transactions that are still there.
        if next(iter(self._read(topics.METERED, number, Extent(log.begin, before))), None) is None:
            if before:
                self.notes.append(
                    f"Shard {number}: retention deleted all of the log that tally has counted, so "
                    "there was nothing to verify."
                )
            return None
        whole = self._extent(topics.TALLY_STATE, number).begin == 0
        changelog = self._frames(topics.TALLY_STATE, number)
        begin = restore_after(changelog, log.begin, is_whole=whole)
        if begin is None:
            raise Stop(
                f"The log of shard {number} begins at offset {log.begin}, and usage.tally.state "
                "has no state of that time or later.",
                remedy="Restore usage.tally.state, or the beginning of usage.metered, from a "
                "backup. The live totals are as they were: only this check is impossible.",
            )
        self.notes.append(
            f"Shard {number}: verified from offset {begin.next_offset} on. Retention deleted the "
            f"log before {log.begin}, so what was counted by then was taken from usage.tally.state."
        )
        return begin

    def _log(
        self, number: int, log: Extent, begin: int, before: int, advance: Callable[[], None]
    ) -> Iterator[tuple[int, Frame]]:
        """A shard's log from `begin` to before the cut; on the way the packs' events are noted."""
        read_from, read_to = (log.begin, log.end) if self._taken is not None else (begin, before)
        for record in self._read(topics.METERED, number, Extent(read_from, read_to)):
            advance()
            frame = open_frame(record)
            if self._taken is not None:
                if frame.kind is Kind.PACK:
                    self._taken.note(number, record.offset, Pack(frame))
                else:
                    where = f"{record.topic}-{number} at offset {record.offset}"
                    document = read_document(frame.header["document"], where)
                    self._definitions[frame.header["version"]] = document
            if begin <= record.offset < before:
                yield record.offset, frame

    def _ranges(self) -> list[Range]:
        """The events that intake has confirmed and that are still there."""
        ranges = []
        for partition, extent in enumerate(self.cut.extents[topics.EVENTS.name]):
            confirmed = self.cut.intake[partition] if partition < len(self.cut.intake) else None
            if confirmed is None and extent.end > extent.begin:
                self.notes.append(
                    f"usage.events-{partition} was not compared: intake has not confirmed any of "
                    "it, or not for so long that Kafka has forgotten."
                )
            if extent.begin > 0:
                self.notes.append(
                    f"usage.events-{partition}: compared from offset {extent.begin} on. What was "
                    "before was deleted by retention."
                )
            ranges.append(Range(extent.begin, max(confirmed or 0, extent.begin)))
        return ranges

    def _take_in_again(self, taken: Taken, ranges: Sequence[Range], progress: Progress) -> None:
        rejections = by_position(
            record
            for partition, extent in enumerate(self.cut.extents[topics.REJECTED.name])
            for record in self._read(topics.REJECTED, partition, extent)
        )
        logs = self.cut.extents[topics.METERED.name]
        total = sum(end - begin for begin, end in ranges)
        task = progress.add_task("taking in usage.events", total=total)

        def records(partition: int, extent: Extent) -> Iterator[Record]:
            for record in self._read(topics.EVENTS, partition, extent):
                progress.advance(task)
                yield record

        if not self._definitions.keys() >= set(taken.versions):
            self._definitions |= self._counted_by()
        self.taken_in = EventsCompared()
        for partition, (begin, end) in enumerate(ranges):
            found = taken.compare(
                partition,
                records(partition, Extent(begin, end)),
                rejections.get(partition, {}),
                self._definitions,
                self.cut.shards,
                lambda shard: logs[shard].begin == 0,
            )
            self.taken_in.events += found.events
            self.taken_in.uncompared += found.uncompared

    def _counted_by(self) -> dict[str, Definitions]:
        """Definitions that tally has counted by; what it has yet to count may be cut by some of
        which the log has lost the announcement.
        """
        return {
            version: read_document(document, f"{topics.TALLY_STATE.name}-{number}")
            for number in range(self.cut.shards)
            for frame in self._frames(topics.TALLY_STATE, number)
            for version, document in frame.header["definitions"].items()
        }

    def _note_what_was_not_compared(self) -> None:
        gone = {
            "totals": self.compared.uncompared_totals,
            "packs' decisions": self.compared.uncompared_packs,
            "events' packs": 0 if self.taken_in is None else self.taken_in.uncompared,
        }
        self.notes += [
            f"{count:,} {what} were not compared: retention has deleted them."
            for what, count in gone.items()
            if count
        ]

    def _extent(self, topic: topics.Topic, number: int) -> Extent:
        return self.cut.extents[topic.name][number]

    def _frames(self, topic: topics.Topic, number: int, begin: int = 0) -> Iterator[Frame]:
        """All that is kept from offset `begin` on."""
        extent = self._extent(topic, number)
        extent = extent._replace(begin=max(begin, extent.begin))
        return map(open_frame, self._read(topic, number, extent))

    def _read(self, topic: topics.Topic, partition: int, extent: Extent) -> Iterator[Record]:
        return read_between(self.kafka, topic.name, partition, *extent)


def _is_pack(record: Record) -> bool:
    return open_frame(record).kind is Kind.PACK
