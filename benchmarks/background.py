"""Work in a thread of its own, from entering a context until leaving it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self


class Background:
    """A context manager that runs `work` until `_end` is set, which leaving does."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        self._end = threading.Event()
        self._thread = threading.Thread(target=work, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end.set()
        self._wake()
        self._thread.join()
        self._close()

    def _wake(self) -> None:
        """Let the work see that it shall end, where it waits for something else."""

    def _close(self) -> None:
        """Let go of what the work needed."""
