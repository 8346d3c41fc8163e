"""`meterline run STAGE…`: one process of each stage that is named."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.fork import end_when_closed, fork_each
from pipeline.commands.wire import StageName, wire
from pipeline.settings import read_settings


def run(
    stages: Annotated[
        list[StageName],
        typer.Argument(
            metavar="STAGE", help="What to run: one stage, or several in a process each."
        ),
    ],
    config: Annotated[Path | None, typer.Option(help="The definitions, meterline.yaml.")] = None,
    instance: Annotated[
        str | None, typer.Option(help="Names this process; the same again after a restart.")
    ] = None,
) -> None:
    """Run stages until Ctrl-C or SIGTERM. Run one several times to share its partitions.

    Several stages of one command start sooner and take less memory than one by one; when one of
    them ends, all do.
    """
    settings = read_settings(config=config, instance=instance)
    runs = {stage: wire(stage) for stage in stages}
    if len(stages) > 1:
        stage = StageName(fork_each(stages, stops_with_stdin=settings.stop_with_stdin))
    else:
        (stage,) = stages
        if settings.stop_with_stdin:
            end_when_closed(sys.stdin.fileno())
    stop = threading.Event()
    if stage is StageName.WATCH:
        # It keeps nothing that another process could take from it. Faust hears signals itself: what
        # comes before it does must end the process, not be noted where nobody looks.
        runs[stage](settings, settings.instance, stop)
        return
    from streams.instance import claim_instance

    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda *_: stop.set())
    with claim_instance(stage, settings.instance) as name:
        runs[stage](settings, name, stop)
