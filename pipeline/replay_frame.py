"""What a replay reads of frames that live tally wrote; anybody may have written something else."""

from __future__ import annotations

import pyarrow as pa

from pipeline.errors import Stop
from schemas.frame import Frame


def part(frame: Frame, index: int, columns: pa.Schema, topic: str) -> pa.RecordBatch:
    """One part of a frame on `topic`.

    Raises:
        Stop: it has other columns, or is not there.
    """
    if len(frame.parts) <= index or not frame.parts[index].schema.equals(columns):
        raise _misfit(f"A frame on {topic} has other columns than it should.")
    return frame.parts[index]


def number(frame: Frame, name: str, topic: str) -> int:
    """A number in the header of a frame on `topic`.

    Raises:
        Stop: it is not there.
    """
    found = frame.header.get(name)
    if not isinstance(found, int):
        raise _misfit(f"A frame on {topic} has no {name} in its header.")
    return found


def _misfit(fault: str) -> Stop:
    return Stop(
        fault, remedy="Find the program that wrote it; only Meterline writes to this topic."
    )
