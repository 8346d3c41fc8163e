"""A sink that remembers what the delivery loop did with it, and holds the loop to its contract."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet

from pipeline.record import Attempt, Outgoing, Record, Written

Place = tuple[str, int]


class Recording:
    """`on_write` is called with each batch before it counts as written, and may raise.

    Records of which `waits` says so are left waiting.
    """

    def __init__(
        self,
        *topics: str,
        on_write: Callable[[Sequence[Record]], None] = lambda _: None,
        outgoing: Callable[[Record], Sequence[Outgoing]] = lambda _: (),
        waits: Callable[[Record], bool] = lambda _: False,
    ) -> None:
        self.topics: Sequence[str] = topics
        self.on_write = on_write
        self._outgoing = outgoing
        self._waits = waits
        self._waiting: list[Record] = []
        #: What was written, batch by batch, and the time the loop gave for each.
        self.batches: list[list[Record]] = []
        self.times_ms: list[int] = []
        #: With which attempt each place was begun.
        self.resumed: list[tuple[Place, Attempt | None]] = []
        self.held_back: AbstractSet[Place] = frozenset()
        self._next: dict[Place, int] = {}
        self.broken_contract: list[str] = []

    @property
    def values(self) -> list[bytes | None]:
        """The values of all records that were written, in order."""
        return [record.value for batch in self.batches for record in batch]

    @property
    def owned(self) -> set[Place]:
        """The places that are begun and not forgotten."""
        return set(self._next)

    def resume(self, topic: str, partition: int, attempt: Attempt | None) -> None:
        """Begin with a partition."""
        self.resumed.append(((topic, partition), attempt))
        self._next[topic, partition] = -1

    def write(self, records: Sequence[Record], now_ms: int) -> Written:
        """Remember a batch, of which only the first times count as given."""
        following = dict(self._next)
        waited = [record for record in records if record in self._waiting]
        if waited != [r for r in self._waiting if (r.topic, r.partition) in self._next]:
            self.broken_contract.append("not all that waits was given again")
        for record in records:
            if record in waited:
                continue
            place = (record.topic, record.partition)
            if place not in following:
                self.broken_contract.append(f"{place} is not ours")
            elif following[place] not in (-1, record.offset):
                self.broken_contract.append(f"{place} jumped to {record.offset}")
            following[place] = record.offset + 1
        self.times_ms.append(now_ms)
        self.on_write(records)
        self.batches.append(list(records))
        self._next = following
        self._waiting = [record for record in records if self._waits(record)]
        done = [record for record in records if record not in self._waiting]
        positions = {(r.topic, r.partition): following[r.topic, r.partition] for r in records}
        positions |= {(r.topic, r.partition): r.offset for r in reversed(self._waiting)}
        outgoing = [out for record in done for out in self._outgoing(record)]
        return Written(positions, outgoing, self._waiting)

    def ahead(self) -> AbstractSet[Place]:
        """What a test wants not to be read on."""
        return self.held_back

    def forget(self, topic: str, partition: int) -> None:
        """End with a partition."""
        self._next.pop((topic, partition), None)
