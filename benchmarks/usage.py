"""CPU time and memory of programs, all their processes together, while they run.

with Usage([process.pid]) as usage:
    ...
    print(usage.cpu_seconds(), usage.memory_bytes_max)
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import suppress

import psutil

from benchmarks.background import Background

#: How often they are looked at; a peak of memory between two looks goes unseen.
LOOK_SECONDS = 0.25


class Usage(Background):
    """Watches processes and all that they start; a context manager.

    CPU time is user and system, of every thread, since each process began. A child that ended is in
    the figures of its parent, which has waited for it.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        """Watch these processes.

        Raises:
            psutil.NoSuchProcess: one of them is not there.
        """
        self._cpu_seconds = {psutil.Process(pid): 0.0 for pid in pids}
        #: Of each process that another watched one started: which.
        self._parents: dict[psutil.Process, psutil.Process] = {}
        self._memory_bytes_max = 0
        self._lock = threading.Lock()
        super().__init__("usage", self._work)

    def cpu_seconds(self) -> float:
        """What all of them have used up to now."""
        self._look()
        with self._lock:
            return sum(self._cpu_seconds.values())

    @property
    def memory_bytes_max(self) -> int:
        """The most that they held at one time, as of the last look.

        The proportional set size where the system knows it: pages that several processes share
        count once. Else the resident set size.
        """
        return self._memory_bytes_max

    def _work(self) -> None:
        while not self._end.wait(LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        with self._lock:
            for parent in list(self._cpu_seconds):
                with suppress(psutil.NoSuchProcess):
                    for child in parent.children():
                        if child not in self._cpu_seconds:
                            self._cpu_seconds[child] = 0.0
                            self._parents[child] = parent
            held = 0
            for process in list(self._cpu_seconds):
                try:
                    times = process.cpu_times()
                except psutil.NoSuchProcess:
                    self._let_go(process)
                    continue
                self._cpu_seconds[process] = (
                    times.user + times.system + times.children_user + times.children_system
                )
                held += _memory_bytes(process)
            self._memory_bytes_max = max(self._memory_bytes_max, held)

    def _let_go(self, gone: psutil.Process) -> None:
        """What has ended stays as last seen, unless its parent counts it now."""
        if gone in self._parents:
            del self._cpu_seconds[gone], self._parents[gone]
        for child, parent in list(self._parents.items()):
            if parent == gone:
                # Nobody who is watched will wait for it any more.
                del self._parents[child]


def _memory_bytes(process: psutil.Process) -> int:
    """0 of a process that has just ended."""
    try:
        memory = process.memory_full_info()
        return int(getattr(memory, "pss", 0) or memory.rss)
    except psutil.AccessDenied:
        return int(process.memory_info().rss)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return 0
