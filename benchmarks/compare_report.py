"""The comparison as a table on the screen, as Markdown, as JSON and as a chart."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.box import SIMPLE
from rich.table import Table

from benchmarks.charts import bars, short
from benchmarks.contender import Contender
from benchmarks.race import Result
from benchmarks.workload import DUPLICATE_DISTANCE_MAX, EVENT_TYPES, Workload

_OURS = "Meterline"

_RATES = ("per_cpu_second", "per_cpu_second_running", "per_wall_second")

_COLUMNS = (
    "events per CPU second",
    "Meterline is",
    "without start-up",
    "Meterline is",
    "events per second",
    "Meterline is",
    "peak memory",
    "state on disk",
    "state in Kafka",
    "broker's CPU",
    "others' CPU",
)
_SHORT_COLUMNS = (
    "per CPU s",
    "ratio",
    "running",
    "ratio",
    "per s",
    "ratio",
    "memory",
    "disk",
    "Kafka",
    "broker",
    "others",
)


@dataclass(frozen=True)
class Comparison:
    """All results of one run, in its order, and under what they were measured."""

    workload: Workload
    results: Sequence[Result]
    contenders: Sequence[Contender]
    machine: Mapping[str, str]
    load_before: tuple[float, float, float]
    load_after: tuple[float, float, float]

    def ours(self, rate: str) -> float | None:
        """One of the rates of a `Result`, of that run of Meterline where it was lowest, if any."""
        rates = [getattr(one, rate) for one in self.results if one.name == _OURS and one.totals]
        return min(rates, default=None)


def table(compared: Comparison) -> Table:
    """For the screen."""
    shown = Table(title=_title(compared), box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    shown.add_column("", no_wrap=True)
    for column in _SHORT_COLUMNS:
        shown.add_column(column, justify="right", no_wrap=True)
    for name, cells in _rows(compared):
        shown.add_row(name, *cells)
    return shown


def markdown(compared: Comparison, *, chart: str) -> str:
    """The report; `chart` is the chart's file beside it."""
    workload = compared.workload
    lines = [
        "# Meterline beside its peers",
        "",
        f"`uv run python -m benchmarks.compare --events {workload.events}` measured this: "
        f"{_title(compared)}, one JSON CloudEvent of about 200 bytes in each Kafka message, "
        f"{len(EVENT_TYPES)} event types, copies up to {DUPLICATE_DISTANCE_MAX:,} messages after "
        "their originals. Each contender runs alone and reads the same topic from the beginning; "
        "the one broker, warmed up before, is on the same machine. It sums a value and counts per "
        "customer, event type and month, each (source, id) once within 35 days, and is done when "
        "all totals that a `read_committed` consumer sees are exactly those that the generator "
        "knows.",
        "",
        f"![Events per CPU second]({chart})",
        "",
        "| | " + " | ".join(_COLUMNS) + " |",
        "|---|" + "---:|" * len(_COLUMNS),
        *(f"| {name} | " + " | ".join(cells) + " |" for name, cells in _rows(compared)),
        "",
        "- **events per CPU second**: user and system time of all the contender's processes since "
        "they began, so start-up and the warm-up of a JVM are in it, the broker's time is not. "
        "**without start-up**: less what they used before the first two megabytes of events. "
        "**Meterline is** so many times as fast, by the slower of its two runs.",
        "- **events per second**: from the first two megabytes that the broker sent to the moment "
        "when all totals were right and readable. Start-up is not in it.",
        "- **peak memory**: proportional set size of all processes. **state on disk**: what the "
        "contender keeps in files, checkpoints included; what it still holds in memory is not "
        "there. **state in Kafka**: its changelogs on the broker.",
        "- **broker's CPU**: what the broker did meanwhile, in seconds. The cores are shared by "
        "the contender, the broker and the reader that checks the totals, and **others' CPU** is "
        "what the rest of the machine took.",
        "",
    ]
    for result in compared.results:
        if result.problem:
            lines += [f"**{result.name}**", "", "```", result.problem, "```", ""]
    lines += ["## Versions and settings", ""]
    seen = set()
    for contender in compared.contenders:
        if contender.name not in seen:
            seen.add(contender.name)
            versions = ", ".join(f"{name} {number}" for name, number in contender.versions.items())
            files = ", ".join(f"[{Path(file).name}](../../{file})" for file in contender.settings)
            lines.append(f"- **{contender.name}**: {contender.about}. {versions}. {files}")
    lines += ["", "## Machine", ""]
    lines += [f"- {name}: {value}" for name, value in compared.machine.items()]
    lines += [
        f"- load average (1, 5, 15 minutes) before: {_load(compared.load_before)}, "
        f"after: {_load(compared.load_after)}",
        f"- seed: {workload.seed}",
        "",
    ]
    return "\n".join(lines)


def document(compared: Comparison) -> str:
    """Everything that was measured, as JSON."""
    results = []
    for result in compared.results:
        rates = {rate: getattr(result, rate) for rate in _RATES}
        ratios = {
            f"meterline_{rate}": ratio
            for rate in _RATES
            if (ratio := _ratio(compared, result, rate)) is not None
        }
        results.append(asdict(result) | rates | {"ratios": ratios})
    return (
        json.dumps(
            {
                "machine": dict(compared.machine),
                "load_before": compared.load_before,
                "load_after": compared.load_after,
                "workload": asdict(compared.workload),
                "versions": {one.name: dict(one.versions) for one in compared.contenders},
                "results": results,
            },
            indent=1,
        )
        + "\n"
    )


def chart(compared: Comparison, path: Path) -> None:
    """Events per CPU second of those who count, Meterline first; of two runs the slower one."""
    rates: dict[str, float] = {}
    for result in compared.results:
        if result.totals:
            name = _name(compared, result)
            rates[name] = min(rates.get(name, result.per_cpu_second), result.per_cpu_second)
    bars(path, _title(compared), "events per CPU second, all totals exactly right", rates)


def _rows(compared: Comparison) -> list[tuple[str, list[str]]]:
    rows = []
    for number, result in enumerate(compared.results):
        name = _name(compared, result)
        if any(other.name == result.name for other in compared.results[:number]):
            name += ", again"
        if result.problem:
            rows.append((name, [result.problem.partition(":")[0], *[""] * (len(_COLUMNS) - 1)]))
            continue
        rows.append(
            (
                name,
                [
                    short(result.per_cpu_second),
                    _times(compared, result, "per_cpu_second"),
                    short(result.per_cpu_second_running),
                    _times(compared, result, "per_cpu_second_running"),
                    short(result.per_wall_second),
                    _times(compared, result, "per_wall_second"),
                    _size(result.memory_bytes_max),
                    _size(result.disk_bytes),
                    _size(result.changelog_bytes),
                    f"{result.broker_cpu_seconds:.1f} s",
                    f"{result.others_cpu_seconds:.1f} s",
                ],
            )
        )
    return rows


def _name(compared: Comparison, result: Result) -> str:
    few = result.events < compared.workload.events
    return f"{result.name}, first {result.events:,}" if few else result.name


def _ratio(compared: Comparison, result: Result, rate: str) -> float | None:
    """How many times as fast as the result Meterline's slower run is; None for its own runs."""
    ours = compared.ours(rate)
    if ours is None or result.problem or result.name == _OURS:
        return None
    return ours / float(getattr(result, rate))


def _times(compared: Comparison, result: Result, rate: str) -> str:
    ratio = _ratio(compared, result, rate)
    return "" if ratio is None else f"{ratio:.3g} x"


def _size(count: int) -> str:
    return f"{short(count)}B" if count else "—"


def _title(compared: Comparison) -> str:
    workload = compared.workload
    return (
        f"{workload.events:,} events of {workload.customers:,} customers, "
        f"{workload.duplicate_share:.0%} duplicates"
    )


def _load(averages: tuple[float, float, float]) -> str:
    return " ".join(f"{one:.2f}" for one in averages)
