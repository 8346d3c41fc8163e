"""Records of packed topics become frames."""

from __future__ import annotations

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
    if frame.kind not in _KINDS[record.topic]:
        raise Stop(
            f"{where} carries {frame.kind.name.lower()}, which does not belong there.",
            remedy="Find the program that wrote it; only Meterline writes to this topic.",
        )
    return frame
