"""Time that passes only while everyone sleeps: minutes of waiting take none, and runs are alike.

Tasks are greenlets of one thread. Whoever sleeps gives way; when nobody can go on, the clock moves
to whoever is to wake first. What a task computes takes no time.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from itertools import count
from typing import Any

from greenlet import getcurrent, greenlet


class VirtualTime:
    """A clock and its scheduler."""

    def __init__(self, begin_ms: int) -> None:
        self._begin_ms = begin_ms
        self._seconds = 0.0
        self._order = count()
        self._sleepers: list[tuple[float, int, greenlet]] = []

    def monotonic(self) -> float:
        """Seconds since the begin."""
        return self._seconds

    def wall(self) -> float:
        """Seconds since 1970."""
        return self._begin_ms / 1000 + self._seconds

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return self._begin_ms + int(self._seconds * 1000)

    def sleep(self, seconds: float) -> None:
        """Let others go on for so long; with nobody else about, time just passes."""
        hub = getcurrent().parent
        if hub is None:
            self._seconds += seconds
            return
        heapq.heappush(self._sleepers, (self._seconds + seconds, next(self._order), getcurrent()))
        hub.switch()

    def run(self, tasks: list[Callable[[], None]]) -> None:
        """Return when all of them have ended."""
        for task in tasks:
            greenlet(task).switch()
        while self._sleepers:
            wakes, _, sleeper = heapq.heappop(self._sleepers)
            self._seconds = max(self._seconds, wakes)
            sleeper.switch()


class VirtualPool(Executor):
    """As many workers as a `ThreadPoolExecutor` has threads; they work when it is shut down."""

    def __init__(self, time: VirtualTime, workers: int) -> None:
        self._time = time
        self._workers = workers
        self._waiting: deque[Callable[[], None]] = deque()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Its result is there after `shutdown`."""
        future: Future[Any] = Future()

        def work() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except Exception as error:
                future.set_exception(error)

        self._waiting.append(work)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002 - it always waits
        """Do all the work."""
        self._time.run([self._work] * min(self._workers, len(self._waiting)))

    def _work(self) -> None:
        while self._waiting:
            self._waiting.popleft()()
