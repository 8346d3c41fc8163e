"""Records of packed topics become frames."""

from __future__ import annotations

import struct

import msgspec
import pyarrow as pa

from pipeline.errors import Stop
from pipeline.record import Record
from schemas import topics
from schemas.frame import Frame, FrameError, Kind, unseal

_KINDS = {
    topics.METERED.name: (Kind.PACK, Kind.DEFINITIONS),
    topics.DECISIONS.name: (Kind.DECISIONS,),
    topics.TOTALS.name: (Kind.TOTALS,),
    topics.TALLY_STATE.name: (Kind.SEGMENT,),
}

_FOREIGN = "Find the program that wrote it; only Meterline writes to this topic."

#: What every reader counts on: the names in the header, and how many parts follow it.
CONTENTS: dict[Kind, tuple[set[str], int]] = {
    Kind.DEFINITIONS: ({"version", "document"}, 0),
    Kind.PACK: ({"definitions"}, 1),
    Kind.DECISIONS: ({"pack_offset"}, 2),
    Kind.TOTALS: ({"version"}, 1),
    Kind.SEGMENT: (
        {
            "shard",
            "shards",
            "from_offset",
            "next_offset",
            "part",
            "parts",
            "watermark_ms",
            "since_snapshot",
            "definitions",
            "current",
            "slots",
            "begins",
            "completes",
        },
        2,
    ),
}

#: What opening raises where the checksum is right and the content is not.
_MALFORMED = (
    ValueError,
    OSError,
    EOFError,
    StopIteration,
    struct.error,
    msgspec.MsgspecError,
    pa.ArrowException,
)


def open_frame(record: Record) -> Frame:
    """The frame of a record.

    Raises:
        Stop: it is no frame that this program reads, or of a kind that its topic does not carry.
    """
    where = f"{record.topic}-{record.partition} at offset {record.offset}"
    try:
        frame = unseal(record.value or b"")
    except FrameError as error:
        fault, _, remedy = str(error).partition("; ")
        raise Stop(f"{where}: {fault}.", remedy=f"{remedy.capitalize()}.") from error
    except _MALFORMED as error:
        raise Stop(f"{where} cannot be opened: {error!r:.200}.", remedy=_FOREIGN) from error
    if frame.kind not in _KINDS[record.topic]:
        raise Stop(
            f"{where} carries {frame.kind.name.lower()}, which does not belong there.",
            remedy=_FOREIGN,
        )
    names, parts = CONTENTS[frame.kind]
    # Any JSON may stand where the header should.
    named: object = frame.header
    if not (isinstance(named, dict) and names <= named.keys() and len(frame.parts) == parts):
        raise Stop(
            f"{where} has not what {frame.kind.name.lower()} must have.",
            remedy=f"Run the same version of Meterline everywhere. {_FOREIGN}",
        )
    return frame
