"""Many seeds, spread over cores."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator

from tests.simulation.plant import Bug
from tests.simulation.planted import BUGS
from tests.simulation.simulate import Outcome, simulate

#: How many seeds each planted bug has to be caught.
BUG_SEEDS_MAX = 400

_CHUNK = 20


def outcomes(seeds: range, cores: int) -> Iterator[Outcome]:
    """What became of each seed, in any order."""
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        yield from pool.imap_unordered(simulate, seeds, chunksize=_CHUNK)


def catch_all(cores: int) -> Iterator[tuple[Bug, Outcome | None]]:
    """Each planted bug and the first seed that shows it."""
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        yield from zip(BUGS, pool.imap(catch, range(len(BUGS))), strict=True)


def catch(number: int, begin: int = 1) -> Outcome | None:
    """The first seed, from `begin` on, that shows a planted bug; None if `BUG_SEEDS_MAX` do not.

    Those before `begin` come last.
    """
    for seed in (*range(begin, BUG_SEEDS_MAX + 1), *range(1, begin)):
        with BUGS[number].plant():
            outcome = simulate(seed)
        if outcome.differences:
            return outcome
    return None
