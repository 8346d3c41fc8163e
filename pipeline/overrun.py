"""Records that were deleted before a stage had read them, so that it stops. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from schemas import topics
from schemas.discrepancy import Link

#: A stage that counts or stores → a topic that it reads → the link that lacks what it missed.
READERS: Mapping[str, Mapping[str, Link]] = {
    "intake": {topics.EVENTS.name: "input"},
    "tally": {topics.METERED.name: "input"},
    "clickhouse": {
        topics.METERED.name: "stored",
        topics.DECISIONS.name: "stored",
        topics.REJECTED.name: "stored",
        topics.TOTALS.name: "totals",
    },
}

REMEDY = (
    'Restore the topic from a backup, or go on behind what was lost, as "Lost positions" in '
    "docs/operating.md says, and lengthen the retention."
)


class Overrun(NamedTuple):
    """Offsets of a partition that were deleted from where a stage would have gone on."""

    stage: str
    topic: str
    partition: int
    position: int
    begin: int

    def __str__(self) -> str:
        return (
            f"{self.topic} partition {self.partition}: offsets from {self.position} to before "
            f"{self.begin} were deleted before {self.stage} had read them"
        )
