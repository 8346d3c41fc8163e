"""The tally stage: the shard log in, decisions, totals, alerts and state out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from pipeline.announced import announced_in_time
from pipeline.open_frame import open_frame
from pipeline.record import Outgoing, Record, Records
from pipeline.shard import Restore
from pipeline.tally import Tally
from schemas import topics
from schemas.frame import Frame


class TallyStage:
    """One fold over all shards that this process owns."""

    name = "tally"
    input_topic = topics.METERED.name
    state_topic = topics.TALLY_STATE.name
    trace = None

    def __init__(
        self,
        shards: int = topics.SHARDS,
        read_on: Callable[[int, int], Iterator[Record]] = lambda *_: iter(()),
    ) -> None:
        """`shards` is the number of partitions of usage.metered.

        `read_on` reads a partition of it from an offset to its end.
        """
        self._shards = shards
        self._read_on = read_on
        self._tally = Tally(shards)

    def announce(self) -> Sequence[Outgoing]:
        """Nothing: everything tally says follows from the shard log."""
        return ()

    def restore(self, partition: int, changelog: Iterator[Record]) -> int | None:
        """Rebuild a shard from its segments; None while the end of a snapshot is not there yet.

        Raises:
            Stop: they are damaged, not complete, or of another shard.
        """
        restoring = Restore(map(open_frame, changelog))
        if not restoring.is_whole:
            return None
        shard = restoring.shard()
        shard.belong_to(partition, self._shards)
        self._tally.add(partition, shard)
        return shard.next_offset or None

    def forget(self, partition: int) -> None:
        """Drop a shard."""
        self._tally.drop(partition)

    def parts(self, records: Records) -> Iterator[Records]:
        """All at once."""
        yield records

    def step(self, records: Sequence[Record]) -> Sequence[Outgoing]:
        """Count."""
        logs: dict[int, list[tuple[int, Frame]]] = {}
        for record in records:
            logs.setdefault(record.partition, []).append((record.offset, open_frame(record)))
        return self._tally.step(
            {number: list(self._announced(number, log)) for number, log in logs.items()}
        )

    def _announced(
        self, number: int, log: Sequence[tuple[int, Frame]]
    ) -> Iterator[tuple[int, Frame]]:
        return announced_in_time(
            self._tally.shards[number].documents,
            log,
            lambda offset: map(open_frame, self._read_on(number, offset)),
        )

    def move_on(self, partition: int, offset: int) -> Sequence[Outgoing]:
        """A segment that changes nothing else."""
        return self._tally.move_on(partition, offset)
