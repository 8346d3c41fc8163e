"""`python -m tests.simulation`: many seeds on all cores, one seed again, or every planted bug.

    uv run python -m tests.simulation --seeds 2000            # 1 to 2000
    uv run python -m tests.simulation --seeds 1000000 --begin 5000
    uv run python -m tests.simulation --seed 17 --trace       # one seed, and all that happened
    uv run python -m tests.simulation --bugs                  # which check catches which mistake

The exit code is 1 if any seed ends with a difference, or a planted bug is not caught.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.simulation.checks import check_of
from tests.simulation.planted import BUGS
from tests.simulation.seeds import BUG_SEEDS_MAX, catch_all, outcomes
from tests.simulation.simulate import simulate

_BEGIN, _END = "<!-- planted bugs: begin -->", "<!-- planted bugs: end -->"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; the exit code."""
    options = _options(arguments)
    if options.seed is not None:
        return _again(options.seed, options.bug, show_trace=options.trace)
    if options.bugs:
        return _catch_bugs(options.cores, options.write)
    return _run(range(options.begin, options.begin + options.seeds), options.cores)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seeds", type=int, default=200, help="how many (default 200)")
    parser.add_argument("--begin", type=int, default=1, help="the first seed (default 1)")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--seed", type=int, help="run this seed alone")
    parser.add_argument("--trace", action="store_true", help="with --seed: print every effect")
    parser.add_argument("--bug", type=int, help="with --seed: plant this bug, by its number")
    parser.add_argument("--bugs", action="store_true", help="plant every bug; print a table")
    parser.add_argument("--write", type=Path, help="with --bugs: put the table into this file")
    return parser.parse_args(arguments)


def _again(seed: int, bug: int | None, *, show_trace: bool) -> int:
    with BUGS[bug].plant() if bug is not None else contextlib.nullcontext():
        outcome = simulate(seed, keeps_trace=show_trace)
    if show_trace:
        print("\n".join(outcome.trace))
    print(
        f"seed {seed}: trace {outcome.trace_hash}, {outcome.lives} lives, faults {outcome.struck}"
    )
    print("\n".join(outcome.differences) or "no difference")
    return 1 if outcome.differences else 0


def _run(seeds: range, cores: int) -> int:
    began = time.monotonic()
    struck: Counter[str] = Counter()
    failed = 0
    for done, outcome in enumerate(outcomes(seeds, cores), 1):
        struck.update(outcome.struck)
        if outcome.differences:
            failed += 1
            print(f"seed {outcome.seed}: {len(outcome.differences)} differences")
            for difference in outcome.differences[:5]:
                print(f"  {difference}")
            print(f"  again: uv run python -m tests.simulation --seed {outcome.seed} --trace")
        if done % 1_000 == 0:
            print(f"{done:,} of {len(seeds):,} seeds, {failed} with differences", flush=True)
    seconds = time.monotonic() - began
    faults = ", ".join(f"{count:,} {name}" for name, count in sorted(struck.items()))
    print(
        f"{len(seeds):,} seeds from {seeds.start} in {seconds:.0f} s on {cores} cores: "
        f"{failed} with differences. Faults: {faults}."
    )
    return 1 if failed else 0


def _catch_bugs(cores: int, file: Path | None) -> int:
    rows = []
    missed = 0
    for bug, found in catch_all(cores):
        if found is None:
            missed += 1
            rows.append(f"| {bug.name} | **not caught** | {BUG_SEEDS_MAX} |")
        else:
            rows.append(f"| {bug.name} | {check_of(found.differences[0])} | {found.seed} |")
        print(rows[-1], flush=True)
    if file is not None:
        table = "\n".join(["| Mistake | Caught by | Seeds |", "|---|---|---|", *rows])
        before, _, rest = file.read_text().partition(_BEGIN)
        _, _, after = rest.partition(_END)
        file.write_text(f"{before}{_BEGIN}\n{table}\n{_END}{after}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
