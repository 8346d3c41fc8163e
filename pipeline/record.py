"""What the pure core knows of a log: records in, records out, positions reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

Headers = tuple[tuple[str, bytes], ...]


class Record(msgspec.Struct, frozen=True, gc=False):
    """One record as it was read. `timestamp_ms` is in milliseconds since 1970."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """One record to be written. Without `partition` the key decides where it goes.

    An `anchor` marks where the restore of its partition's state may begin from now on.
    """

    topic: str
    value: bytes | None
    key: bytes | None = None
    partition: int | None = None
    headers: Headers = ()
    anchor: bool = False


#: (topic, partition) → the next offset to read.
Positions = Mapping[tuple[str, int], int]


@dataclass(frozen=True, slots=True)
class Attempt:
    """Records up to `through_offset` may have been sent since `since_ms` by an earlier process."""

    through_offset: int
    since_ms: int


@dataclass(frozen=True, slots=True)
class Written:
    """What a sink made durable: where to go on from, and what to tell other readers."""

    positions: Positions
    outgoing: Sequence[Outgoing] = field(default_factory=tuple)


class Sink(Protocol):
    """A place outside that takes records at least once and makes them count once.

    The delivery loop calls `resume` for each partition it is given, then `write` with batches in
    the order of each partition, and commits only the positions that `write` returned. `forget`
    drops whatever is buffered for a partition that went to another process.
    """

    topics: Sequence[str]

    def resume(self, topic: str, partition: int, attempt: Attempt | None) -> None:
        """Begin with a partition; `attempt` is what an earlier process had started, if anything."""

    def write(self, records: Sequence[Record], now_ms: int) -> Written:
        """Make `records` durable outside.

        Raises:
            Retry: nothing is known to be wrong; the same records are given again after a wait.
            Stop: going on would lose or falsify something.
        """

    def ahead(self) -> Set[tuple[str, int]]:
        """The (topic, partition) that should not be read on until others have caught up."""

    def forget(self, topic: str, partition: int) -> None:
        """Drop what is buffered for a partition that is no longer ours."""
