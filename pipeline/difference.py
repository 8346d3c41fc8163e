"""What differs between a replay and what is live, each difference one sentence; and of how much."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Self

from pipeline.periods import moment

_SHOWN_CHARACTERS_MAX = 100


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One of them: what differs, whose it is, where it lies and how it differs.

    `period_start` is in ISO 8601, and `offset` is a pack's in its shard of usage.metered.
    """

    what: str
    problem: str
    shard: int | None = None
    offset: int | None = None
    customer: str | None = None
    meter: str | None = None
    period_start: str | None = None
    group: str | None = None

    def __str__(self) -> str:
        where = [] if self.shard is None else [f"shard {self.shard}"]
        where += [] if self.offset is None else [f"pack at offset {self.offset}"]
        whose = [] if self.customer is None else [f"customer {shown(self.customer)}"]
        whose += [] if self.meter is None else [f"meter {shown(self.meter)}"]
        whose += [] if self.period_start is None else [f"period from {self.period_start}"]
        whose += [] if self.group in (None, "{}") else [f"group {shown(str(self.group))}"]
        of = f" of {', '.join(whose)}" if whose else ""
        at = f" ({', '.join(where)})" if where else ""
        return f"{self.what}{of}{at}: {self.problem}."


@dataclass
class Differences:
    """All that were found: how many of each kind, and the first `kept_max` of them."""

    kept_max: int
    kept: list[Difference] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, difference: Difference) -> None:
        """Note one more."""
        self.counts[difference.what] += 1
        if len(self.kept) < self.kept_max:
            self.kept.append(difference)

    @property
    def count(self) -> int:
        """How many there are, kept or not."""
        return self.counts.total()


@dataclass
class Compared:
    """How much was compared, and what could not be since retention had deleted it."""

    shards: int = 0
    packs: int = 0
    events: int = 0
    totals: int = 0
    alerts: int = 0
    uncompared_packs: int = 0
    uncompared_totals: int = 0

    def __iadd__(self, more: Compared) -> Self:
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(more, each.name))
        return self


def shown(text: str) -> str:
    """A text of a user's, so that it cannot steer a terminal or fill it."""
    safe = text if text.isprintable() else text.encode("unicode_escape").decode()
    return safe if len(safe) <= _SHOWN_CHARACTERS_MAX else f"{safe[:_SHOWN_CHARACTERS_MAX]}…"


def instant(ms: int) -> str:
    """Milliseconds since 1970, in ISO 8601 as far as it reaches."""
    try:
        return moment(ms).strftime("%Y-%m-%dT%H:%M:%SZ")
    except OverflowError:
        return f"{ms} ms"
