"""One session of the transactional shell: a consumer and a producer, as long as both go well.

Two owners of a partition cannot both commit. A paused one is fenced three times over: its offsets
are of a generation of the group that is over, its transaction has timed out, and whoever takes over
first waits until every earlier transaction is decided.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from types import TracebackType
from typing import Self

import numpy as np
import structlog

from pipeline.errors import Stop
from pipeline.record import Outgoing, Records
from streams.clients import Clients, Committed, Place, count_of
from streams.forgotten import require_first_start
from streams.stage import MOVE_ON_SECONDS, Stage
from streams.state_note import read_state_note, state_note

log = structlog.get_logger()

#: Twice as long as the broker takes to end a transaction that hangs: its time-out, and then its
#: look around every ten seconds (transaction.abort.timed.out.transaction.cleanup.interval.ms).
_STATE_SECONDS = 40.0


class Session:
    """Reads batches of a stage's input and commits what they become; a context manager."""

    def __init__(self, stage: Stage, clients: Clients, instance: str) -> None:
        self._stage = stage
        self._clients = clients
        # Whoever starts after partitions were added is another member: the old one would have its
        # old share back at once, and nobody would ever be given the new partitions.
        self._consumer = clients.consumer(stage.name, f"{instance}.{self._partition_count()}p")
        self._writer = clients.transactional_writer(stage.name, instance)
        #: The next offset to read of each partition that is ours.
        self._positions: dict[int, int] = {}
        #: The offset up to which each state in memory has counted, which is always committed.
        self._counted: dict[int, int | None] = {}
        #: Where the last complete snapshot of each state begins, and one that is being written.
        self._anchors: dict[int, int] = {}
        self._begun: dict[int, int] = {}
        self._move_on_at = clients.clock.monotonic() + MOVE_ON_SECONDS
        #: What waits for a step, read by read.
        self._reads: list[Records] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give up what is unfinished and leave."""
        self._writer.abort()
        self._forget(set(self._counted))
        self._consumer.close()

    def open(self) -> None:
        """Fence an earlier self, write what must come first, and join the group."""
        self._writer.fence()
        announced = self._stage.announce()
        if announced:
            self._writer.begin()
            self._writer.write(announced)
            self._writer.commit()
        self._consumer.subscribe([self._stage.input_topic], self._assigned, self._revoked)

    @property
    def count(self) -> int:
        """How many records wait for a step."""
        return sum(map(len, self._reads))

    def take(self) -> Records:
        """The records that wait for a step, of which there is one; they wait no longer."""
        batch = Records.joined(self._reads)
        self._reads.clear()
        return batch

    def read(self, count: int, wait_seconds: float) -> int:
        """Add up to `count` records to the batch; the bytes that were added."""
        records = self._consumer.read(count, wait_seconds)
        if records:
            records = self._ours(records)
        if not records:
            return 0
        self._reads.append(records)
        return records.size_bytes

    def transact(self, part: Records, outgoing: Sequence[Outgoing]) -> None:
        """Make a step's outputs and the positions after its part of a batch visible together."""
        self._commit(part.ends, outgoing)

    def _commit(self, reached: Mapping[int, int], outgoing: Sequence[Outgoing]) -> None:
        # 1. Begin. From here to 5 nothing is visible to anybody.
        self._writer.begin()
        # 2. Every output and every state segment, acknowledged by the broker.
        places = self._writer.write(outgoing)
        for record, (partition, offset) in zip(outgoing, places, strict=True):
            if record.begins:
                self._begun[partition] = offset
            if record.completes:
                self._anchors[partition] = self._begun.pop(partition)
        # 3. The positions, under the group generation that owns the partitions.
        positions = {
            (self._stage.input_topic, partition): Committed(
                offset, state_note(self._anchors.get(partition))
            )
            for partition, offset in reached.items()
        }
        self._writer.send_offsets(positions, self._consumer.membership())
        # 4. Commit: the one moment at which all of it happens.
        self._writer.commit()
        # 5. Only now is it done.
        self._counted |= reached

    @property
    def may_move_on(self) -> bool:
        """Whether it is time to do so."""
        return self._clients.clock.monotonic() >= self._move_on_at

    def move_on(self) -> None:
        """Move positions past offsets that are no records, and what the states say of them: where
        Kafka forgets the positions, the states alone know them.

        What is looked for begins at what is committed, or else where a start would, so no record
        can be passed over, whatever has been read meanwhile.
        """
        self._move_on_at = self._clients.clock.monotonic() + MOVE_ON_SECONDS
        ours = {
            (self._stage.input_topic, partition): self._counted[partition]
            for partition in self._positions
        }
        reached = {
            place[1]: offset
            for place, offset in self._clients.next_records(ours).items()
            if offset > (ours[place] or 0)
        }
        if reached:
            told = [self._stage.move_on(*place) for place in reached.items()]
            self._commit(reached, list(chain.from_iterable(told)))

    def _partition_count(self) -> int:
        """How many partitions the input has, as has the state."""
        known = self._clients.partition_counts()
        wanted = [self._stage.input_topic, self._stage.state_topic]
        counts = [count_of(topic, known) for topic in filter(None, wanted)]
        if len(set(counts)) > 1:
            raise Stop(
                f"{wanted[0]} has {counts[0]} partitions, but {wanted[1]} has {counts[1]}.",
                remedy="Both were created with one number of shards, which never changes: find "
                "out who changed it, and create the topics anew with `meterline topics`.",
            )
        return counts[0]

    def _ours(self, records: Records) -> Records:
        """Those that go on from our positions; partitions may have been taken from us meanwhile."""
        partitions, offsets = records.partitions, records.offsets
        order = np.argsort(partitions, kind="stable")
        rises = np.diff(offsets[order]) > 0
        begins = np.flatnonzero(np.diff(partitions[order], prepend=-1))
        rises[begins[1:] - 1] = True
        first = zip(
            partitions[order[begins]].tolist(), offsets[order[begins]].tolist(), strict=True
        )
        if not rises.all() or not all(self._goes_on(*place) for place in first):
            records = records.picked(list(self._going_on(records)))
        if records:
            self._positions |= records.ends
        return records

    def _going_on(self, records: Records) -> Iterator[int]:
        """The places of those that go on, one by one."""
        positions = dict(self._positions)
        for place, record in enumerate(records):
            if positions.get(record.partition, record.offset + 1) <= record.offset:
                positions[record.partition] = record.offset + 1
                yield place

    def _goes_on(self, partition: int, offset: int) -> bool:
        return self._positions.get(partition, offset + 1) <= offset

    def _assigned(self, places: Sequence[Place]) -> None:
        self._forget(self._counted.keys() - {partition for _, partition in places})
        starts: dict[Place, int | None] = {}
        # Waits for transactions of a former owner that are still being decided.
        known = self._consumer.committed(places)
        settled_at = self._clients.clock.monotonic() + _STATE_SECONDS
        if known and all(committed.offset is None for committed in known.values()):
            require_first_start(self._stage, self._clients, self._consumer)
        for place, committed in known.items():
            _, partition = place
            # A state that nobody has counted on since is as good as a restored one.
            if partition not in self._counted or self._counted[partition] != committed.offset:
                self._counted[partition] = self._restore(place, committed, settled_at)
            starts[place] = self._counted[partition]
            self._positions[partition] = self._counted[partition] or 0
        self._consumer.assign(starts)

    def _restore(self, place: Place, committed: Committed, settled_at: float) -> int | None:
        """Rebuild the state of a partition; the offset to go on from, None for the beginning.

        What was being decided is decided at `settled_at`.
        """
        topic, partition = place
        if self._stage.state_topic is None:
            return committed.offset
        anchor = read_state_note(place, committed.note)
        clock = self._clients.clock
        while True:
            # All that had been written under what is committed is readable by then.
            is_settled = clock.monotonic() > settled_at
            changelog = self._clients.read_to_end(self._stage.state_topic, partition, anchor or 0)
            position = self._stage.restore(partition, changelog)
            # The last transaction's offsets may be readable before its state is: its markers are
            # written one partition after the other. Going on from there would count twice.
            if position is None and committed.offset is None:
                return None
            if (position or 0) >= (committed.offset or 0):
                self._anchors[partition] = anchor or 0
                return position or 0
            if is_settled and anchor is None and self._is_behind_loss(place, position, committed):
                return committed.offset
            if is_settled:
                ends = "is not complete" if position is None else f"ends at {position}"
                raise Stop(
                    f"The state of {topic} {partition} {ends}, but its offsets are committed up to "
                    f"{committed.offset}.",
                    remedy=f"Restore {self._stage.state_topic} from a backup; it lost records. If "
                    'somebody set the offsets, set them as "Lost positions" in docs/operating.md '
                    "says.",
                )
            clock.sleep(0.05)

    def _is_behind_loss(self, place: Place, position: int | None, committed: Committed) -> bool:
        """Whether a position that a person set leaves out nothing but what was deleted, so that
        nobody can count it any more.
        """
        if position is None or self._clients.next_records({place: None})[place] < (
            committed.offset or 0
        ):
            return False
        log.warning(
            "going on behind records that were lost",
            stage=self._stage.name,
            topic=place[0],
            partition=place[1],
            counted_to=position,
            goes_on_at=committed.offset,
        )
        return True

    def _revoked(self, _: Sequence[Place]) -> None:
        """Everything is taken away, if only to be assigned anew; states may still be of use."""
        self._positions.clear()
        self._reads.clear()
        self._consumer.unassign()

    def _forget(self, partitions: Iterable[int]) -> None:
        for partition in partitions:
            self._counted.pop(partition, None)
            self._anchors.pop(partition, None)
            self._begun.pop(partition, None)
            self._stage.forget(partition)
