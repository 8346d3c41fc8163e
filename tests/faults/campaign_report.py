"""A run of faults as a page of Markdown."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from statistics import median

import chdb
import confluent_kafka

from streams.kafka_distribution import VERSION as KAFKA_VERSION
from tests.faults.campaign import EVENT_PARTITIONS, PROCESSES, SHARDS, Options
from tests.faults.harm import Tally
from tests.faults.verdict import Verdict

_MEANINGS = {
    "kill": "kill -9 of a stage's process, started again at once",
    "pause": "SIGSTOP for 12 s, past the session time-out of 10 s; then a zombie wakes up",
    "broker": "kill -9 of a broker, started again within 4 s; of several, one at a time",
    "storm": "another intake or tally joins and leaves, three times in a row",
    "latency": "20 to 300 ms on each request and each answer, for 2 to 6 s",
    "reset": "connections reset, half of them in the middle of an answer",
    "black hole": "nothing passes in either direction, for 2 to 14 s",
    "half-open": "a fifth of all connections stay open and answer no more, for 5 to 30 s",
    "delayed EndTxn": "each EndTxn held back for 0.5 to 12 s (transactions time out after 10 s)",
    "late request": "an EndTxn or TxnOffsetCommit is sent again; the first comes up to 3 s later",
    "stripe outage": "each call fails, half of them after they counted, for 5 to 20 s",
    "dead member": "the broker kept a dead process in a group; it was started again",
    "repartition": "usage.events from 4 to 8 partitions while events flow",
}


def write_report(options: Options, tally: Tally, verdict: Verdict, seconds: float) -> str:
    """The page; `seconds` is how long all of it took."""
    found = verdict.differences
    result = "zero differences" if not found else f"**{len(found)} differences**"
    length = (
        f"--kills {options.kills}"
        if options.kills is not None
        else f"--duration {options.duration_seconds:.0f}"
    )
    parts = [
        f"# {tally.kills.total():,} kills, {result}",
        "Every stage ran as a process of the command line against a real Kafka, through a proxy "
        "that can harm connections; ClickHouse's engine was embedded, Stripe a stand-in that fails "
        "one call in eight. Events flowed all the time. After each round everything was healed and "
        "had to come through. In the end an oracle that shares no code with Meterline recomputed "
        "everything from what was sent.",
        "```sh\n"
        f"uv run python -m tests.faults {length} --seed {options.seed} "
        f"--round {options.kills_a_round} --rate {options.per_second:g} "
        f"--gap {options.gap_seconds:g} --brokers {options.brokers} --report report.md\n```",
        "The seed fixes the events and the schedule; what a fault meets also depends on the "
        "machine.",
        "## What was compared",
        _table(
            ("", "seen", "differences"),
            [
                ("records of usage.events", verdict.ledger["sent"], ""),
                ("… doubled by the broker when it was killed", verdict.doubled, ""),
                *((f"… {name}", verdict.ledger[name], "") for name in _OUTCOMES),
                ("totals, in Kafka and in ClickHouse", verdict.totals, ""),
                ("alerts, each once", verdict.alerts, ""),
                ("Stripe meter events, summed up", verdict.meter_events, ""),
                ("**all of it, against the oracle**", "", f"**{len(found)}**"),
            ],
        ),
        "## What was done to it",
        _table(
            ("fault", "times", "what it is"),
            [(kind, tally.faults[kind], meaning) for kind, meaning in _MEANINGS.items()],
        ),
        "## Kills by stage",
        f"{tally.at_work.total():,} of {tally.kills.total():,} kills hit a process that had "
        "committed in that very life; the others hit one that was starting, restoring or joining "
        "its group. Recovery is from the kill to the next commit of the same process, its start "
        "included, while other faults go on.",
        _table(
            ("stage", "processes", "kills", "had committed", "recovery p50", "worst"),
            [_stage_row(stage, tally) for stage in dict.fromkeys(name for name, _ in PROCESSES)],
        ),
        "## Kills between two effects",
        "The proxy killed these processes itself, just before the broker got a request or just "
        "after; the other kills came at random moments.",
        _table(("the moment", "kills"), sorted(tally.at.items())),
        "## The run",
        _table(
            ("", ""),
            [
                ("wall time", f"{seconds / 60:.0f} minutes"),
                ("rounds", len(tally.drained_seconds)),
                ("processes that ended by themselves", len(tally.complaints)),
                (
                    "from healed to drained, p50 and worst",
                    f"{median(tally.drained_seconds):.0f} s, {max(tally.drained_seconds):.0f} s",
                ),
                ("brokers, copies of each partition", options.brokers),
                ("shards, partitions of usage.events", f"{SHARDS}, {EVENT_PARTITIONS} then 8"),
                ("day", f"{datetime.now(UTC):%Y-%m-%d}"),
                ("machine", f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}"),
                ("versions", _versions()),
            ],
        ),
    ]
    if found:
        parts += ["## Differences", _items(found[:200])]
    if tally.complaints:
        parts += [
            "## Processes that ended by themselves",
            *(f"- {end}" for end in tally.complaints),
        ]
    return "\n\n".join(parts) + "\n"


_OUTCOMES = ("accepted", "duplicate", "conflict", "rejected", "late", "unknown")


def _stage_row(stage: str, tally: Tally) -> Sequence[object]:
    seconds: Mapping[str, list[float]] = tally.recovered_seconds
    times = seconds.get(stage) or [0.0]
    processes = sum(name == stage for name, _ in PROCESSES)
    recovery = (f"{median(times):.1f} s", f"{max(times):.1f} s")
    return (stage, processes, tally.kills[stage], tally.at_work[stage], *recovery)


def _items(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _versions() -> str:
    return (
        f"Python {platform.python_version()}, Kafka {KAFKA_VERSION}, "
        f"librdkafka {confluent_kafka.libversion()[0]}, chDB {chdb.__version__}, "
        f"stripe {version('stripe')}"
    )


def _table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
