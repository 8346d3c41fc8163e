"""Definitions that a shard's log announces only behind a pack that was cut by them.

Intake announces before the first such pack, but that record may be lost with the beginning of a
log. A version is a hash of its content, so what is announced further on is as good; intake
announces at every start.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

from schemas.frame import Frame, Kind

UNANNOUNCED = (
    "Restart intake, which announces its definitions anew at every start, and then start this "
    "again. If meterline.yaml has changed since, start intake once with what it was. If a backup "
    "was restored, restore usage.tally.state and usage.metered from one."
)


def announced_in_time(
    known: Collection[str],
    log: Iterable[tuple[int, Frame]],
    read_on: Callable[[int], Iterable[Frame]],
) -> Iterator[tuple[int, Frame]]:
    """`log`, (offset, frame) each, with what it announces too late once more where it is needed.

    `known` are the versions of before; `read_on` reads the log from an offset on. What is found
    comes into force at the first pack that was cut by it, live and in a replay.
    """
    seen = set(known)
    for offset, frame in log:
        if frame.kind is Kind.DEFINITIONS:
            seen.add(frame.header["version"])
        elif frame.kind is Kind.PACK and frame.header["definitions"] not in seen:
            version = frame.header["definitions"]
            seen.add(version)
            found = (each for each in read_on(offset) if each.kind is Kind.DEFINITIONS)
            again = next((each for each in found if each.header["version"] == version), None)
            if again is not None:
                yield offset, again
        yield offset, frame
