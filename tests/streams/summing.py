"""A stage for tests of the transactional shell: per partition, it adds up numbers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from msgspec import structs

from pipeline.record import Outgoing, Record, Records
from streams.stage import Trace
from tests.streams.on_kafka import committed, create, publish, read


class Summing:
    """Writes for each batch which offsets it added and the sum so far.

    Its state is a changelog of additions; after every `snapshot_every` of them in a partition comes
    the sum, as a snapshot; one that is `spread` begins before the addition and is complete with the
    next one.
    `before_step` is called with each batch.
    """

    def __init__(
        self,
        name: str,
        *,
        has_state: bool = True,
        snapshot_every: int = 10**9,
        spread: bool = False,
        before_step: Callable[[Sequence[Record]], None] = lambda _: None,
    ) -> None:
        self.name = name
        self.input_topic = f"{name}.in"
        self.output_topic = f"{name}.out"
        self.state_topic = f"{name}.state" if has_state else None
        self.trace = None if has_state else Trace(self.output_topic, lambda _: True)
        self._snapshot_every = snapshot_every
        self._before_step = before_step
        self._spread = spread
        self._segments: Counter[int] = Counter()
        #: Partitions of which a snapshot is being written.
        self._begun: set[int] = set()
        self._sums: dict[int, int] = {}
        #: What each restore read: partition and the changelog's offsets.
        self.restored: list[tuple[int, list[int]]] = []

    def announce(self) -> Sequence[Outgoing]:
        """Nothing."""
        return ()

    def restore(self, partition: int, changelog: Iterator[Record]) -> int | None:
        """Add up the changelog."""
        total, position, offsets = 0, None, []
        for record in changelog:
            segment = json.loads(record.value or b"")
            total = segment["sum"] if "sum" in segment else total + segment["add"]
            position = segment["next"]
            offsets.append(record.offset)
        self._sums[partition] = total
        self._begun.discard(partition)
        self.restored.append((partition, offsets))
        return position

    def forget(self, partition: int) -> None:
        """Drop a sum."""
        self._sums.pop(partition, None)

    def parts(self, records: Records) -> Iterator[Records]:
        """All at once."""
        yield records

    def step(self, records: Sequence[Record]) -> Sequence[Outgoing]:
        """Add."""
        self._before_step(records)
        outgoing = []
        for partition in sorted({record.partition for record in records}):
            log = [record for record in records if record.partition == partition]
            add = sum(int(record.value or b"") for record in log)
            total = self._sums.get(partition, 0) + add
            self._sums[partition] = total
            added = {"offsets": [record.offset for record in log], "sum": total}
            outgoing.append(_json(self.output_topic, partition, added))
            if self.state_topic is not None:
                segment = {"next": log[-1].offset + 1, "add": add}
                outgoing.append(_json(self.state_topic, partition, segment))
                self._segments[partition] += 1
                is_due = self._segments[partition] % self._snapshot_every == 0
                if partition in self._begun or (is_due and not self._spread):
                    snapshot = {"next": log[-1].offset + 1, "sum": total}
                    record = _json(self.state_topic, partition, snapshot)
                    begins = partition not in self._begun
                    outgoing.append(structs.replace(record, begins=begins, completes=True))
                    self._begun.discard(partition)
                elif is_due:
                    outgoing[-1] = structs.replace(outgoing[-1], begins=True)
                    self._begun.add(partition)
        return outgoing

    def move_on(self, partition: int, offset: int) -> Sequence[Outgoing]:
        """Add nothing."""
        if self.state_topic is None:
            return ()
        return [_json(self.state_topic, partition, {"next": offset, "add": 0})]


def _json(topic: str, partition: int, content: object) -> Outgoing:
    return Outgoing(topic, json.dumps(content).encode(), partition=partition)


class Numbers:
    """Input for a `Summing` and what must have come of it."""

    def __init__(self, address: str, stage: Summing, partitions: int = 2) -> None:
        self._address = address
        self._stage = stage
        self._sent: list[list[int]] = [[] for _ in range(partitions)]
        create(address, partitions, stage.input_topic, stage.output_topic)
        if stage.state_topic is not None:
            create(address, partitions, stage.state_topic)

    def send(self, count: int) -> None:
        """Write `count` more numbers to each partition."""
        values = []
        for partition, sent in enumerate(self._sent):
            for _ in range(count):
                sent.append(7 * len(sent) + partition + 1)
                values.append((partition, b"%d" % sent[-1]))
        publish(self._address, self._stage.input_topic, values)

    def positions(self) -> list[int]:
        """The next offset of each partition, by what is committed."""
        found = committed(self._address, self._stage.name, self._stage.input_topic)
        return [found[partition][0] for partition in range(len(self._sent))]

    def done(self) -> bool:
        """Whether the group has confirmed everything."""
        return self.positions() == [len(sent) for sent in self._sent]

    def written(self) -> list[list[tuple[list[int], int]]]:
        """What is visible of the output: per partition (offsets, sum) of each batch."""
        found: list[list[tuple[list[int], int]]] = [[] for _ in self._sent]
        for record in read(self._address, self._stage.output_topic):
            added = json.loads(record.value or b"")
            found[record.partition].append((added["offsets"], added["sum"]))
        return found

    def assert_exact(self) -> None:
        """Every number was added once, in order, and every sum so far is right."""
        assert self.done()
        for sent, batches in zip(self._sent, self.written(), strict=True):
            assert [o for offsets, _ in batches for o in offsets] == list(range(len(sent)))
            for offsets, total in batches:
                assert total == sum(sent[: offsets[-1] + 1])
