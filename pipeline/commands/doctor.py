"""`meterline doctor`: checks everything that Meterline needs, and says the remedies."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.console import Console
from rich.text import Text

from pipeline.commands import checks
from pipeline.commands.checks import Finding, Mark, bad, good, open_
from pipeline.errors import MeterlineError
from pipeline.settings import Settings, read_settings

#: For all checks together: they run at the same time.
SECONDS_MAX = 30.0

_COLOURS = {Mark.GOOD: "green", Mark.BAD: "red", Mark.OPEN: "yellow"}
_NAME_WIDTH = 13


class Check(NamedTuple):
    """One check: what it is about, and how it is made."""

    name: str
    make: Callable[[], Iterator[Finding]]


def doctor(
    config: Annotated[Path | None, typer.Option(help="The definitions, meterline.yaml.")] = None,
    bootstrap_servers: Annotated[
        str | None, typer.Option(help="Kafka; else METERLINE_BOOTSTRAP_SERVERS.")
    ] = None,
) -> None:
    """Check everything that Meterline needs; ends with 1 if something does not work."""
    # What clients log meanwhile is said by the findings.
    logging.disable(logging.CRITICAL)
    console = Console(highlight=False, soft_wrap=True)
    settings: Settings | None = None
    fault: MeterlineError | None = None
    try:
        settings = read_settings(config=config, bootstrap_servers=bootstrap_servers)
    except MeterlineError as error:
        fault = error
    faulty = 0
    checked = run(all_checks(settings, fault), SECONDS_MAX)
    try:
        for name, findings in checked:
            for finding in findings:
                faulty += finding.mark is Mark.BAD
                _show(console, name, finding)
    except OSError:
        # The end of Python would end the other checks, and one that is within C++ by an abort.
        deque(checked, maxlen=0)
        raise
    console.print()
    if faulty:
        things = "One thing has" if faulty == 1 else f"{faulty} things have"
        console.print(Text(f"{things} to be put right.", style="bold red"))
        raise typer.Exit(1)
    console.print(Text("Everything that could be checked works.", style="bold green"))


def all_checks(settings: Settings | None, fault: MeterlineError | None) -> list[Check]:
    """The checks, in the order in which they are shown."""

    def settings_check() -> Iterator[Finding]:
        if fault is not None:
            raise fault
        yield good("read from the environment")

    def needs(check: Callable[[Settings], Iterator[Finding]]) -> Callable[[], Iterator[Finding]]:
        if settings is None:
            return lambda: iter([open_("not looked at: the settings are faulty")])
        return lambda: check(settings)

    return [
        Check("Python", checks.python),
        Check("Packages", checks.packages),
        Check("Settings", settings_check),
        Check("Definitions", needs(checks.definitions)),
        Check("Kafka", needs(checks.kafka)),
        Check("ClickHouse", needs(checks.clickhouse)),
        Check("Stripe", needs(checks.stripe)),
        Check("Local Kafka", checks.local_kafka),
        Check("Disk", lambda: checks.disk(settings)),
    ]


def run(every: Sequence[Check], seconds_max: float) -> Iterator[tuple[str, list[Finding]]]:
    """Make all checks at the same time; their findings, in order.

    A check that fails is itself a finding, and so is one that has not ended after `seconds_max`.
    """
    deadline = time.monotonic() + seconds_max
    running = []
    for check in every:
        findings: list[Finding] = []
        # Daemons: a check that hangs must not keep the process.
        thread = threading.Thread(target=_make, args=(check, findings), daemon=True)
        thread.start()
        running.append((check, thread, findings))
    for check, thread, findings in running:
        thread.join(max(deadline - time.monotonic(), 0))
        if thread.is_alive():
            late = bad(
                f"no answer after {seconds_max:g} s",
                "Check the network between here and there, or why this machine is so busy.",
            )
            yield check.name, [*findings, late]
        else:
            yield check.name, findings


def _make(check: Check, findings: list[Finding]) -> None:
    try:
        findings.extend(check.make())
    except MeterlineError as error:
        findings.append(bad(error.message, error.remedy))
    except Exception as error:
        # Not its text: what no part of Meterline foresaw might quote a secret.
        findings.append(
            bad(
                f"the check itself failed with {type(error).__name__}",
                "Run the stage that needs it and read its log; please report this.",
            )
        )


def _show(console: Console, name: str, finding: Finding) -> None:
    indent = " " * (_NAME_WIDTH + 2)
    lines = finding.what.rstrip(".").splitlines()
    mark = Text.assemble((finding.mark, _COLOURS[finding.mark]), f" {name:{_NAME_WIDTH}}")
    console.print(mark + Text(f"\n{indent}".join(lines)))
    if finding.remedy:
        console.print(Text.assemble(indent, ("Remedy: ", "bold"), finding.remedy))
