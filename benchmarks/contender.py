"""What takes part in the comparison: a program with its commands, its output and its settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.workload import Sum

#: (customer, event type).
TotalKey = tuple[str, str]


class LeftOut(Exception):
    """This machine lacks what the contender needs; the message says what."""


@dataclass(frozen=True)
class Place:
    """Where a contender runs: its broker, what it reads, and a folder of its own."""

    address: str
    input_topic: str
    events: int
    directory: Path

    @property
    def state(self) -> Path:
        """For everything that it keeps on disk."""
        return self.directory / "state"


@dataclass(frozen=True)
class Command:
    """One process: its command line, what it adds to the environment, where it runs."""

    line: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Contender:
    """One program that counts the events of a topic.

    `about` says what it is made of, `settings` are the files in which the rest can be read.
    `prepare` fetches and builds what it needs, before anything is measured, and returns what
    starts it; it raises `LeftOut` where that is impossible. `totals` reads one record of
    `output_topic`; without one it counts nothing, and is done when it says so on standard output.
    Of the topics that there are then, those are its state for which `is_changelog` holds;
    `compacted_topics` are made for it beforehand. `events_max` is for one that would need hours
    for all events.
    """

    name: str
    about: str
    prepare: Callable[[], Callable[[Place], Sequence[Command]]]
    versions: Mapping[str, str]
    settings: Sequence[str]
    output_topic: str | None = None
    totals: Callable[[bytes], Iterable[tuple[TotalKey, Sum]]] = lambda _: ()
    is_changelog: Callable[[str], bool] = lambda _: False
    compacted_topics: Sequence[str] = ()
    events_max: int | None = None
