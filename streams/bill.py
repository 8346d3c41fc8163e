"""The bill stage: totals in, frozen deltas and what has been frozen out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from pipeline.bill import Bill
from pipeline.open_frame import open_frame
from pipeline.record import Outgoing, Record
from schemas import topics
from schemas.billing import Frozen
from schemas.definitions import Definitions

#: The key of the record that says how far the state has come; every other record is a `Frozen`.
_POSITION_KEY = b'"next_offset"'


class BillStage:
    """One ledger of frozen deltas for each shard that this process owns."""

    name = "bill"
    input_topic = topics.TOTALS.name
    state_topic = topics.BILL_STATE.name

    def __init__(self, definitions: Definitions) -> None:
        self._definitions = definitions
        self._bills: dict[int, Bill] = {}

    def announce(self) -> Sequence[Outgoing]:
        """Nothing."""
        return ()

    def restore(self, partition: int, changelog: Iterator[Record]) -> int | None:
        """Rebuild a shard's ledger."""
        position: int | None = None
        frozen = []
        for record in changelog:
            if record.value is None:
                continue
            if record.key == _POSITION_KEY:
                position = msgspec.json.decode(record.value)
            else:
                frozen.append(Frozen.model_validate_json(record.value))
        self._bills[partition] = Bill(partition, frozen)
        return position

    def forget(self, partition: int) -> None:
        """Drop a shard's ledger."""
        self._bills.pop(partition, None)

    def step(self, records: Sequence[Record]) -> Sequence[Outgoing]:
        """Freeze what the totals grew by, shard by shard."""
        logs: dict[int, list[Record]] = {}
        for record in records:
            logs.setdefault(record.partition, []).append(record)
        outgoing: list[Outgoing] = []
        for partition, log in sorted(logs.items()):
            frames = [open_frame(record) for record in log]
            outgoing += self._bills[partition].step(self._definitions, frames)
            position = msgspec.json.encode(log[-1].offset + 1)
            outgoing.append(
                Outgoing(self.state_topic, position, key=_POSITION_KEY, partition=partition)
            )
        return outgoing
