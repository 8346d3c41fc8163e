"""The `meterline` command: one line for each subcommand, imported when it is called."""

from __future__ import annotations

import errno
import gc
import os
import sys
import traceback
from importlib import import_module
from io import TextIOWrapper

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from pipeline.errors import MeterlineError, Retry

#: Name and summary; the command, or the group of commands, has that name in
#: `pipeline.commands.<name>`: a function, or an app of its own.
COMMANDS = {
    "demo": "Count, store, alert and bill a stream of events, all on this machine.",
    "dev": "Start a local Kafka, with nothing to install, and create the topics.",
    "run": "Run one stage of the pipeline.",
    "send": "Send usage events from a file, or from standard input, to Kafka.",
    "topics": "Create the topics that the configured Kafka lacks.",
    "migrate": "Create or update the tables and views of the configured ClickHouse.",
    "rejected": "List, show and replay dead letters.",
    "replay": "Count the log anew and compare it with the live totals and alerts.",
    "reconcile": "Compare every link from the input to the invoice, while everything runs.",
    "doctor": "Check everything that Meterline needs, and say what to do about it.",
}

#: The file descriptor.
_STDOUT = 1


class _Lazy(TyperGroup):
    """Listing the commands imports none of them: Kafka, Arrow and ClickHouse take a second."""

    def resolve_command(self, ctx, args):  # type: ignore[no-untyped-def]
        name = args[0]
        if name in COMMANDS:
            command = getattr(import_module(f"pipeline.commands.{name}"), name)
            if not isinstance(command, typer.Typer):
                function, command = command, typer.Typer(add_completion=False)
                command.command(name)(function)
            self.commands[name] = typer.main.get_command(command)
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_Lazy,
    no_args_is_help=True,
    add_completion=False,
    # A traceback with local variables would show settings, and with them secrets.
    pretty_exceptions_enable=False,
    help="Usage metering on Kafka: every event counted exactly once.",
)
for _name, _summary in COMMANDS.items():
    app.command(_name, help=_summary)(lambda: None)


def main() -> None:
    """Runs the command line; what Meterline raises on purpose ends it with the remedy.

    The exit code is 2 where a person is asked, 75 (EX_TEMPFAIL of sysexits.h) where trying again
    later may help, and 70 (EX_SOFTWARE) where nobody foresaw what happened: 1 is a difference,
    or an output that nobody reads any more.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        # A sign that the terminal does not know must not end a command that has done its work.
        sys.stdout.reconfigure(errors="replace")
    # What is imported stays: looking for garbage in it every 700 objects took a tenth of a start.
    gc.set_threshold(100_000, 50, 50)
    # Nobody multiplies matrices here, but numpy's threads for that begin by spinning.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        _run()
    except MeterlineError as error:
        console = Console(stderr=True, soft_wrap=True)
        console.print(Text(error.message, style="red"))
        console.print(Text.assemble(("Remedy: ", "bold"), error.remedy))
        sys.exit(75 if isinstance(error, Retry) else 2)
    except Exception:
        traceback.print_exc()
        sys.exit(70)


def _run() -> None:
    """Runs the command line up to the last byte of its output.

    Raises:
        MeterlineError: what the command raises.
        Retry: a disk is full; mostly the one that the output goes to.
    """
    try:
        try:
            app(prog_name="meterline")
        finally:
            print(end="", flush=True)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EPIPE):
            raise
        # What could not be written would be tried again at the end of the process, and said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), _STDOUT)
        if error.errno == errno.EPIPE:
            # Nobody reads it any more; what typer and rich write ends the same way.
            sys.exit(1)
        raise Retry(
            f"What was to be written has no room: {error.strerror}.",
            remedy="Make room on the disk that the output goes to, and run it again.",
        ) from error
