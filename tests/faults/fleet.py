"""The stages as an operator runs them: processes of the command line, killed and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from streams.stage import member_of

#: Trying again later may help; see `pipeline.cli.main`.
_TEMPORARY = 75
_STOP_SECONDS_MAX = 60.0


@dataclass(eq=False)
class Member:
    """One process of a stage, over all its lives; `born` is on the monotonic clock."""

    stage: str
    instance: str
    process: subprocess.Popen[bytes] = field(repr=False)
    born: float
    paused: bool = False

    @property
    def name(self) -> str:
        """What it calls itself to Kafka."""
        return member_of(self.stage, self.instance)


class Fleet:
    """Starts `meterline run STAGE`; each process logs to `<logs>/<stage>.<instance>.log`."""

    def __init__(self, environment: Mapping[str, str], logs: Path) -> None:
        self._environment = dict(os.environ) | dict(environment)
        self._environment |= {
            "METERLINE_STOP_WITH_STDIN": "true",
            "METERLINE_STATE_DIRECTORY": str(logs / "state"),
            # As installed in production: all is compiled once, not at each start.
            "PYTHONDONTWRITEBYTECODE": "",
        }
        self._logs = logs
        self.members: list[Member] = []
        #: Every end that was not asked for, as a sentence.
        self.complaints: list[str] = []

    def start(self, stage: str, instance: str) -> Member:
        """Start a process."""
        member = Member(stage, instance, self._spawn(stage, instance), time.monotonic())
        self.members.append(member)
        return member

    def command(self, *arguments: str) -> str:
        """What `meterline ARGUMENTS` prints.

        Raises:
            CalledProcessError: it fails.
        """
        return subprocess.run(
            [sys.executable, "-m", "meterline", *arguments],
            env=self._environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    def restart(self, member: Member) -> None:
        """Start a process again that was killed."""
        member.process.kill()
        member.process.wait()
        self._close(member)
        member.process = self._spawn(member.stage, member.instance)
        member.born = time.monotonic()
        member.paused = False

    def pause(self, member: Member) -> None:
        """SIGSTOP."""
        member.paused = True
        member.process.send_signal(signal.SIGSTOP)

    def wake(self, member: Member) -> None:
        """SIGCONT."""
        member.process.send_signal(signal.SIGCONT)
        member.paused = False

    def end(self, member: Member) -> None:
        """SIGTERM; it leaves in order and does not come back."""
        self.members.remove(member)
        self._end([member])

    def check(self) -> None:
        """Start again what has ended by itself, and remember it unless it asked for that."""
        for member in self.members:
            code = member.process.poll()
            if code is None:
                continue
            if code != _TEMPORARY:
                words = " ".join(self._log(member).read_text(errors="replace")[-600:].split())
                self.complaints.append(f"{member.name} ended by itself with {code}: {words}")
            self.restart(member)

    def stop(self) -> None:
        """End all in order."""
        self._end(self.members)
        self.members = []

    def _end(self, members: list[Member]) -> None:
        for member in members:
            member.process.terminate()
            self.wake(member)
        for member in members:
            try:
                code = member.process.wait(_STOP_SECONDS_MAX)
                if code not in (0, _TEMPORARY, -signal.SIGTERM):
                    self.complaints.append(f"{member.name} was asked to end and left with {code}")
            except subprocess.TimeoutExpired:
                self.complaints.append(f"{member.name} did not end in {_STOP_SECONDS_MAX:.0f} s")
                member.process.kill()
                member.process.wait()
            self._close(member)

    def _spawn(self, stage: str, instance: str) -> subprocess.Popen[bytes]:
        with (self._logs / f"{stage}.{instance}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "meterline", "run", stage, "--instance", instance],
                env=self._environment,
                # Held open as long as this process lives: none outlives it.
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )

    def _log(self, member: Member) -> Path:
        return self._logs / f"{member.stage}.{member.instance}.log"

    @staticmethod
    def _close(member: Member) -> None:
        if member.process.stdin is not None:
            member.process.stdin.close()
