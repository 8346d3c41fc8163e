"""The note that a transactional stage has beside its position: where its state is to be found."""

from __future__ import annotations

import re
from typing import NamedTuple

from streams.clients import Place, unreadable_note

_TEXT = re.compile(r"(\d*)(?: (\d+))?", re.ASCII)


class StateNote(NamedTuple):
    """`anchor` is where the last complete snapshot begins, None for the beginning of the topic.

    `counted` is how far the state has come, where the position went on past offsets that are no
    records; None where that is the same.
    """

    anchor: int | None = None
    counted: int | None = None

    def __str__(self) -> str:
        anchor = "" if self.anchor is None else str(self.anchor)
        return anchor if self.counted is None else f"{anchor} {self.counted}"


def read_state_note(place: Place, text: str) -> StateNote:
    """The inverse.

    Raises:
        Stop: it is none of ours.
    """
    match = _TEXT.fullmatch(text)
    if match is None:
        raise unreadable_note(place, text)
    anchor, counted = match.groups()
    return StateNote(int(anchor) if anchor else None, int(counted) if counted else None)
