"""What the transactional shell runs, and the consumer group that the processes of a stage share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.record import Outgoing, Record, Records

#: How long the group waits for a silent member; a restart of the same instance need not wait.
SESSION_TIMEOUT_MS = 10_000

#: So often positions move past offsets that are no records: markers of transactions, and what was
#: aborted. Retention deletes these as well, and a position at one of them would be taken for a loss
#: of records. Once in the time for which topics keep records is enough, but a process may not live
#: for long; each time costs one look at all of its partitions.
MOVE_ON_SECONDS = 3_600.0


@dataclass(frozen=True)
class Trace:
    """What tells that a stage has been at work: records of `topic` that only a step leaves."""

    topic: str
    is_left_by_step: Callable[[Record], bool]


class Stage(Protocol):
    """A pure step with its topics. Partitions are shards of one input topic."""

    @property
    def name(self) -> str:
        """Names the consumer group."""

    @property
    def input_topic(self) -> str:
        """What it reads."""

    @property
    def state_topic(self) -> str | None:
        """Its changelog, co-partitioned with the input; None for a stage without memory."""

    @property
    def trace(self) -> Trace | None:
        """What a stage without memory leaves behind; None where the state knows its position."""

    def announce(self) -> Sequence[Outgoing]:
        """What must be written before the first step of a session."""

    def restore(self, partition: int, changelog: Iterator[Record]) -> int | None:
        """Rebuild a partition's state; the input offset to go on from, None if it holds none."""

    def forget(self, partition: int) -> None:
        """Drop a partition's state."""

    def parts(self, records: Records) -> Iterator[Records]:
        """`records` in parts that are a step each, so that no transaction takes long."""

    def step(self, records: Sequence[Record]) -> Sequence[Outgoing]:
        """What `records`, in order per partition, become."""

    def move_on(self, partition: int, offset: int) -> Sequence[Outgoing]:
        """What the state is told where nothing before `offset` is left to be read."""


def group_of(stage: str) -> str:
    """The consumer group that the processes of a stage share."""
    return f"meterline.{stage}"


def member_of(stage: str, instance: str) -> str:
    """The name of one process of a stage, to its group and as a transactional id."""
    return f"{group_of(stage)}.{instance}"


def membership(stage: str, instance: str) -> dict[str, str | int | bool]:
    """Settings of a consumer that takes part in its stage's group, for both loops."""
    member = member_of(stage, instance)
    return {
        "group.id": group_of(stage),
        "group.instance.id": member,
        "client.id": member,
        "session.timeout.ms": SESSION_TIMEOUT_MS,
        "heartbeat.interval.ms": SESSION_TIMEOUT_MS // 4,
        # Eager: every generation of the group assigns every partition, and none begins while a
        # member has work in hand. The cooperative protocol leaves partitions without an owner when
        # a member restarts between its two steps, because its name alone brings back its old share.
        # By range, so that co-partitioned topics go to one member and can be read side by side.
        "partition.assignment.strategy": "range",
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        # A position that retention has overrun is a loss; nobody may jump over it.
        "auto.offset.reset": "error",
        "fetch.message.max.bytes": 16 * 1024 * 1024,
    }
