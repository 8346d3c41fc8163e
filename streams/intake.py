"""The intake stage: usage.events in, packs and rejections out, in the transactional shell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.intake import Intake, parts
from pipeline.open_frame import open_frame
from pipeline.record import Outgoing, Record, Records
from schemas import topics
from schemas.definitions import Definitions
from schemas.frame import Kind
from streams.stage import Trace


def _is_pack(record: Record) -> bool:
    """Definitions are announced at every start, before anything is taken in."""
    return open_frame(record).kind is Kind.PACK


class IntakeStage:
    """Has no memory: what it needs to know stands in each record."""

    name = "intake"
    input_topic = topics.EVENTS.name
    state_topic = None
    trace = Trace(topics.METERED.name, _is_pack)

    def __init__(self, definitions: Definitions, shards: int = topics.SHARDS) -> None:
        """`shards` is the number of partitions of usage.metered."""
        self._intake = Intake(definitions, shards)

    def announce(self) -> Sequence[Outgoing]:
        """The definitions, to every shard, before the first pack that is cut by them."""
        return self._intake.announce()

    def restore(self, partition: int, changelog: Iterator[Record]) -> int | None:
        """Nothing to restore."""
        del partition, changelog
        return None

    def forget(self, partition: int) -> None:
        """Nothing to forget."""

    def parts(self, records: Records) -> Iterator[Records]:
        """Packed records taken apart, so many events at a time as a transaction can take."""
        return parts(records)

    def step(self, records: Sequence[Record]) -> Sequence[Outgoing]:
        """Packs and rejections."""
        return self._intake.step(records)

    def move_on(self, partition: int, offset: int) -> Sequence[Outgoing]:
        """Nothing to tell."""
        del partition, offset
        return ()
