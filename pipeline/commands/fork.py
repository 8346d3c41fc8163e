"""Several stages on one machine: what they import is loaded once, then each gets a process."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from threading import Thread

from rich.console import Console

#: What asks a process to end in order, and what says that another has ended.
_AWAITED = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)

#: A shell says 128 + n of what signal n has ended.
_BY_SIGNAL = 128


def fork_each(stages: Sequence[str], *, stops_with_stdin: bool) -> str:
    """Return once in each of as many new processes, with the stage that this one has to run.

    The process that calls it only watches the others: it passes on what asks it to end, ends all
    when one has ended, and takes over the code of the first that ended badly. None of them outlives
    it, whatever ends it.

    Raises:
        SystemExit: in the process that watches, when all others have ended.
    """
    # What is there stays: a search for garbage would write to every object, and so copy its page.
    gc.freeze()
    # Nothing of this is lost until it is waited for. What is ignored might be.
    signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    lifeline, held = os.pipe()
    running: dict[int, str] = {}
    for stage in stages:
        process = os.fork()
        if not process:
            os.close(held)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _AWAITED)
            end_when_closed(lifeline)
            return stage
        running[process] = stage
    os.close(lifeline)
    if stops_with_stdin:
        end_when_closed(sys.stdin.fileno())
    raise SystemExit(_watch(running))


def end_when_closed(pipe: int) -> None:
    """Ask this process to end when nobody holds the other end of `pipe` any more."""

    def wait() -> None:
        # Unbuffered: a thread inside a buffered reader would abort the interpreter's end.
        while os.read(pipe, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    Thread(target=wait, daemon=True).start()


def _watch(running: dict[int, str]) -> int:
    """Until none of `running` is left; the code to end with."""
    say = Console(stderr=True, soft_wrap=True, highlight=False).print
    first_code = 0
    asked = False
    while running:
        if signal.sigwait(_AWAITED) != signal.SIGCHLD:
            asked = True
            _end(running)
        for code, stage in _ended(running):
            first_code = first_code or code
            if not asked:
                asked = True
                say(f"{stage} ended with {code}; the other stages of this command end too")
                _end(running)
    return first_code


def _ended(running: dict[int, str]) -> list[tuple[int, str]]:
    """The codes and names of those that have ended since, which are running no more."""
    ended = []
    for process in list(running):
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            code = os.waitstatus_to_exitcode(status)
            ended.append((code if code >= 0 else _BY_SIGNAL - code, running.pop(process)))
    return ended


def _end(running: Iterable[int]) -> None:
    for process in running:
        os.kill(process, signal.SIGTERM)
