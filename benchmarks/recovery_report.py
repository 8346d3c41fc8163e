"""The figures of `benchmarks.recovery` for people: a table, and docs/recovery.md."""

from __future__ import annotations

from typing import Any

from rich.table import Table

_GOAL_RESTART_SECONDS = 15
_GOAL_BYTES = 32

_PAGE = """\
# How soon Meterline counts again

Written by the command that measures it:

```sh
uv run python -m benchmarks.recovery --ids {ids} --takeovers {takeovers} --report docs/recovery.md
```

{ids:,} ids and {totals:,} totals of 10,000 customers in 16 shards, on one machine beside its
broker, while 400 events a second keep coming. A shard counts again when a decision on a new event
is readable for a `read_committed` consumer; each figure is that of the slowest shard.

| What | Measured | Goal |
|---|---|---|
{rows}

- **A restart** is `kill -9` and the same process started again at once. It includes the start of
  Python, joining the group, fencing, the restore and the events that had piled up.
- **A take-over** is `kill -9` of one of two processes that share the shards, and nobody starts it
  again. Its shards wait for the session time-out of {session_timeout:.0f} s, counted from its last
  heartbeat: within that the same process may come back without any rebalance. What is above it is
  the rebalance and the restore of its half of the shards.
- **SIGTERM** takes as long as a death: a process that leaves in order keeps its shards for the
  session time-out as well, because it nearly always comes back.
- **The local copy** (`METERLINE_STATE_DIRECTORY`) is checked entry by entry and against Kafka
  before it is used. Without it all is read from Kafka, as on another host.
- **Memory**: the table takes 22 bytes a slot. Its 64 parts grow by two fifths at 85 % load, one
  after the other, so an id takes 31 bytes at any time; a restore makes it as large as it was. The
  process is compared with one without any state: it has the totals as well, and what the restore
  needed for a moment.

{machine}
"""


def rows(results: dict[str, Any]) -> list[tuple[str, str, str]]:
    """What, measured, goal."""
    per_id = results["bytes_per_id"]
    found = [
        (
            "changelog on Kafka, just after a snapshot",
            f"{results['changelog_bytes'] / 1e6:,.0f} MB, {per_id['changelog']:.1f} B an id",
            "",
        ),
        (
            "local copy",
            f"{results['mirror_bytes'] / 1e6:,.0f} MB, {per_id['mirror']:.1f} B an id",
            "",
        ),
        (
            "table of ids in memory",
            f"{per_id['table']:.1f} B an id",
            f"≤ {_GOAL_BYTES} B",
        ),
        ("memory of the process for its state", f"{per_id['process']:.1f} B an id", ""),
    ]
    for name, source in (("from_kafka", "Kafka"), ("from_mirror", "the local copy")):
        restored = results[name]
        found.append(
            (
                f"restore of all shards from {source}",
                f"{restored['seconds']:.1f} s ({restored['cpu_seconds']:.1f} s of CPU)",
                f"≤ {_GOAL_RESTART_SECONDS} s",
            )
        )
    for name, what, goal in (
        ("restarts", "restart after kill -9", f"≤ {_GOAL_RESTART_SECONDS} s"),
        (
            "restarts_without_mirror",
            "restart after kill -9, local copy deleted",
            f"≤ {_GOAL_RESTART_SECONDS} s",
        ),
        ("takeovers", "take-over by another process after kill -9", ""),
        ("handovers", "take-over by another process after SIGTERM", ""),
    ):
        if name in results["p50_and_worst_seconds"]:
            p50, worst = results["p50_and_worst_seconds"][name]
            count = len(results[name])
            found.append((what, f"p50 {p50:.1f} s, worst of {count} {worst:.1f} s", goal))
    return found


def table(results: dict[str, Any]) -> Table:
    """For the terminal."""
    shown = Table(title=f"{results['ids']:,} ids, {results['totals']:,} totals, 16 shards")
    for column in ("", "measured", "goal"):
        shown.add_column(column, justify="left", no_wrap=True)
    for row in rows(results):
        shown.add_row(*row)
    return shown


def markdown(results: dict[str, Any]) -> str:
    """For docs/recovery.md."""
    machine = results["machine"] | {
        "load average before and after": (
            f"{results['load_before']:.1f}, {results['load_after']:.1f}"
        )
    }
    return _PAGE.format(
        ids=results["ids"],
        totals=results["totals"],
        takeovers=len(results["takeovers"]),
        session_timeout=results["session_timeout"],
        rows="\n".join(f"| {' | '.join(row)} |" for row in rows(results)),
        machine="\n".join(f"- {name}: {value}" for name, value in machine.items()),
    )
