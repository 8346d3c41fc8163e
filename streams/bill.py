"""The bill stage: totals in, frozen deltas and what has been frozen out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import pyarrow as pa
from pydantic import ValidationError

from pipeline.bill import Bill
from pipeline.errors import Stop
from pipeline.open_frame import open_frame
from pipeline.record import Outgoing, Record, Records
from pipeline.route import require_home
from schemas import topics
from schemas.billing import Frozen
from schemas.definitions import Definitions

#: The key of the record that says how far the state has come; every other record is a `Frozen`.
_POSITION_KEY = b'"next_offset"'

_UPGRADE = (
    f"If a newer version of Meterline wrote it, upgrade this one. Else restore "
    f"{topics.BILL_STATE.name} from a backup as new as the offsets of bill's group."
)
_MISROUTED = (
    "It was written for another number of shards, or by another program. Start from a backup of "
    "this deployment: a total in two shards would be billed twice."
)


class _Position(msgspec.Struct, forbid_unknown_fields=True):
    """How far the state has come, and how many totals it has frozen, of which none may be lost."""

    next_offset: int
    frozen: int


class BillStage:
    """One ledger of frozen deltas for each shard that this process owns."""

    name = "bill"
    input_topic = topics.TOTALS.name
    state_topic = topics.BILL_STATE.name
    trace = None

    def __init__(self, definitions: Definitions, shards: int = topics.SHARDS) -> None:
        """`shards` is the number of partitions of usage.totals."""
        self._definitions = definitions
        self._shards = shards
        self._bills: dict[int, Bill] = {}

    def announce(self) -> Sequence[Outgoing]:
        """Nothing."""
        return ()

    def restore(self, partition: int, changelog: Iterator[Record]) -> int | None:
        """Rebuild a shard's ledger.

        Raises:
            Stop: a record of it is damaged, is missing, or has a customer of another shard.
        """
        position: _Position | None = None
        frozen = []
        for record in changelog:
            if record.value is None:
                continue
            try:
                if record.key == _POSITION_KEY:
                    position = msgspec.json.decode(record.value, type=_Position)
                else:
                    frozen.append(Frozen.model_validate_json(record.value, extra="forbid"))
            except (msgspec.DecodeError, ValidationError):
                raise Stop(
                    f"{_place(record)} is no state that this program wrote.", remedy=_UPGRADE
                ) from None
        customers = pa.array([state.customer for state in frozen], pa.string())
        where = f"{self.state_topic}-{partition}"
        require_home(partition, self._shards, customers, where, _MISROUTED)
        self._bills[partition] = bill = Bill(partition, frozen)
        expected = position.frozen if position is not None else 0
        if len(bill) != expected:
            raise Stop(
                f"{where} has {len(bill)} of {expected} frozen totals; what is missing would be "
                "billed again.",
                remedy=_UPGRADE,
            )
        return position.next_offset if position is not None else None

    def forget(self, partition: int) -> None:
        """Drop a shard's ledger."""
        self._bills.pop(partition, None)

    def parts(self, records: Records) -> Iterator[Records]:
        """All at once."""
        yield records

    def step(self, records: Sequence[Record]) -> Sequence[Outgoing]:
        """Freeze what the totals grew by, shard by shard.

        Raises:
            Stop: a record is damaged, or has a customer of another shard.
        """
        logs: dict[int, list[Record]] = {}
        for record in records:
            logs.setdefault(record.partition, []).append(record)
        outgoing: list[Outgoing] = []
        for partition, log in sorted(logs.items()):
            frames = [open_frame(record) for record in log]
            for record, frame in zip(log, frames, strict=True):
                customers = frame.parts[0].column("customer")
                require_home(partition, self._shards, customers, _place(record), _MISROUTED)
            bill = self._bills[partition]
            written_ms = max(record.timestamp_ms for record in log)
            outgoing += bill.step(self._definitions, written_ms, frames)
            outgoing += self.move_on(partition, log[-1].offset + 1)
        return outgoing

    def move_on(self, partition: int, offset: int) -> Sequence[Outgoing]:
        """The position."""
        position = msgspec.json.encode(_Position(offset, len(self._bills[partition])))
        return [Outgoing(self.state_topic, position, key=_POSITION_KEY, partition=partition)]


def _place(record: Record) -> str:
    return f"{record.topic}-{record.partition} at offset {record.offset}"
