"""The note that a transactional stage has beside its position: where its state is to be found.

It is never empty: a position without a note was set by a person.
"""

from __future__ import annotations

from streams.clients import Place, unreadable_note


def state_note(anchor: int | None) -> str:
    """`anchor` is where the last complete snapshot begins, None for the beginning of the topic."""
    return str(anchor or 0)


def read_state_note(place: Place, text: str) -> int | None:
    """Where the state is to be read from; None without a note.

    Raises:
        Stop: it is none of ours.
    """
    if not (text or "0").isdecimal():
        raise unreadable_note(place, text)
    return int(text) if text else None
