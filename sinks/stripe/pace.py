"""Spaces calls out, so that a rate limit is kept instead of run into."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Pace:
    """Hands out evenly spaced slots to all threads of a process.

    Other processes on the same account are not seen: what they take shows as HTTP 429.
    """

    def __init__(
        self,
        calls_per_second: float,
        *,
        sleep: Callable[[float], None],
        monotonic: Callable[[], float],
    ) -> None:
        """`sleep` and `monotonic` are those of `time`, in seconds."""
        self._interval_seconds = 1 / calls_per_second
        self._sleep = sleep
        self._monotonic = monotonic
        self._next_slot = monotonic()
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Return when the next call may go out."""
        with self._lock:
            now = self._monotonic()
            slot = max(now, self._next_slot)
            self._next_slot = slot + self._interval_seconds
        if slot > now:
            self._sleep(slot - now)

    def pause(self, seconds: float) -> None:
        """Give out no slot for that long."""
        with self._lock:
            self._next_slot = max(self._next_slot, self._monotonic() + seconds)
