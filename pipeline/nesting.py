"""How deeply JSON is nested, by its bytes alone.

How deep a parser can go depends on its version, and on how deep in calls it stands: what one stage
has accepted another could not read.
"""

from __future__ import annotations

import re

import msgspec
import numpy as np

#: An event is read up to so many levels, the event itself being the first. Each parser goes deeper.
NESTING_MAX = 250
#: Among many events in one record, one up to this deep is refused alone. Beyond it readers differ
#: in whether they can take the record apart.
PACKED_NESTING_MAX = 2 * NESTING_MAX

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)

_STEPS = np.zeros(256, dtype=np.int8)
_STEPS[[*b"[{"]] = 1
_STEPS[[*b"]}"]] = -1


def is_nested_deeper(json: bytes | msgspec.Raw, levels: int) -> bool:
    """Whether JSON has more than so many levels; of what is no JSON it may say either."""
    # Hardly anything is as long as so many brackets, or has them, wherever they stand.
    if len(json) <= 2 * levels:
        return False
    text = bytes(json)
    if text.count(b"[") + text.count(b"{") <= levels:
        return False
    outside_strings = np.frombuffer(_STRING.sub(b"", text), dtype=np.uint8)
    depths = np.cumsum(_STEPS[outside_strings], dtype=np.int64)
    return int(depths.max(initial=0)) > levels
