"""Runs stages as processes of their own and starts again whichever dies."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pipeline.errors import Stop

#: Begins the command line of another process of ours. Without -P, modules of the directory that
#: this one was started in would come before ours and before Python's own.
METERLINE: Final = (sys.executable, "-P", "-m", "meterline")

#: A stage that ends this often is not going to stay.
_STARTS_MAX = 20

#: How a stage ends that asks for a person; see `pipeline.cli.main`.
_STOPPED = 2

_STOP_SECONDS_MAX = 30.0


class Supervisor:
    """One process for each stage. Their output goes to `<logs>/<stage>.log`."""

    def __init__(
        self,
        stages: Sequence[str],
        environment: Mapping[str, str],
        logs: Path,
        say: Callable[[str], None],
    ) -> None:
        self._environment = (
            dict(os.environ) | dict(environment) | {"METERLINE_STOP_WITH_STDIN": "true"}
        )
        self._logs = logs
        self._say = say
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._starts = dict.fromkeys(stages, 0)

    def __enter__(self) -> Self:
        for stage in self._starts:
            self._start(stage)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def check(self) -> None:
        """Start again what has died.

        Raises:
            Stop: a stage asks for a person, or does not stay alive.
        """
        for stage, process in list(self._processes.items()):
            code = process.poll()
            if code is None:
                continue
            if code == _STOPPED or self._starts[stage] >= _STARTS_MAX:
                raise Stop(
                    f"The stage {stage} ended with {code}: {self._last_words(stage)}",
                    remedy=f"Its whole log is {self._log(stage)}.",
                )
            self._say(f"{stage} ended with {code}; starting it again")
            self._start(stage)

    def stop(self) -> None:
        """End all stages in order: each finishes what it has in hand."""
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(_STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()

    def _start(self, stage: str) -> None:
        self._starts[stage] += 1
        with self._log(stage).open("ab") as log:
            self._processes[stage] = subprocess.Popen(
                [*METERLINE, "run", stage],
                env=self._environment,
                # Held open as long as this process lives; see Settings.stop_with_stdin.
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )

    def _log(self, stage: str) -> Path:
        return self._logs / f"{stage}.log"

    def _last_words(self, stage: str) -> str:
        return self._log(stage).read_text(errors="replace")[-2_000:].strip()
