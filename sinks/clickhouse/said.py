"""What a pack has only inside its original events, taken out many at a time.

The usual form is found as in `pipeline.scan`, from the bytes and without a Python object an event;
what is unusual is decoded one by one. Both say the same of what is usual.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.find_parts import PartFinder
from pipeline.gather import gather
from pipeline.scan_event import (
    ABSENT,
    BASE64,
    DATA,
    ID,
    OBJECT,
    SOURCE,
    TEXT,
    Places,
)
from pipeline.words import SENTINEL, Texts

_ATTRIBUTE_PARTS = PartFinder(())


class Said(NamedTuple):
    """Columns of n events: strings, strings, and bytes as they were sent, empty without data."""

    sources: pa.Array
    ids: pa.Array
    data: pa.Array


class _Attributes(msgspec.Struct, gc=False):
    source: str
    id: str
    data: msgspec.Raw = msgspec.Raw(b"")
    data_base64: str | None = None


_attributes = msgspec.json.Decoder(_Attributes).decode


def said(originals: Sequence[pa.Array]) -> Said:
    """The source, id and data of events in structured mode that intake took, arrays of bytes.

    Raises:
        pa.ArrowInvalid: together they have 2 GiB or more.
    """
    events = pa.concat_arrays([*originals, pa.array([SENTINEL], pa.binary())])
    count = len(events) - 1
    _, offsets, content = events.buffers()
    # A copy that may be written to, and a text that may not, as elsewhere: machine code is made for
    # each kind of array anew.
    bounds = np.frombuffer(offsets, dtype=np.int32, count=count + 1).copy()
    sent = memoryview(content).toreadonly()[: bounds[-1] + len(SENTINEL)]
    text = np.frombuffer(sent, dtype=np.uint8)
    usual, begins, ends = _parts(Texts(text, bounds))
    columns = [
        gather(text, begins[SOURCE], ends[SOURCE], pa.string()),
        gather(text, begins[ID], ends[ID], pa.string()),
        gather(text, begins[DATA], ends[DATA], pa.binary()),
    ]
    if not usual.all():
        others = [_read(event) for event in events[:count].filter(pa.array(~usual)).to_pylist()]
        columns = [
            pc.replace_with_mask(column, pa.array(~usual), pa.array(values, column.type))
            for column, values in zip(columns, zip(*others, strict=True), strict=True)
        ]
    return Said(*columns)


def _parts(sent: Texts) -> tuple[NDArray[np.bool_], Places, Places]:
    """Which events are usual, and where in `sent` their attributes lie; nowhere in the others."""
    usual, kinds, begins, ends, _ = _ATTRIBUTE_PARTS.find(sent)
    usual &= (kinds[ID] == TEXT) & (kinds[SOURCE] == TEXT) & (kinds[BASE64] == ABSENT)
    usual &= (kinds[DATA] == ABSENT) | (kinds[DATA] == OBJECT)
    # Of an event that was left in the middle, a part may begin and never end.
    begins[:, ~usual] = 0
    ends[:, ~usual] = 0
    return usual, begins, ends


def _read(event: bytes) -> tuple[str, str, bytes]:
    found = _attributes(event)
    if found.data_base64 is not None:
        return found.source, found.id, base64.b64decode(found.data_base64)
    return found.source, found.id, bytes(found.data)
