"""How a benchmark's command is run, and how it ends early: with all that it has started."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

import psutil

_ENDINGS = (signal.SIGINT, signal.SIGTERM)


def run(main: Callable[[], int | None]) -> NoReturn:
    """Exit with what `main` returns, or with 128 and the number of the signal that ended it."""
    for ending in _ENDINGS:
        signal.signal(ending, _end)
    sys.exit(main())


def _end(number: int, _: FrameType | None) -> NoReturn:
    """End the processes below this one, so that no `with` waits for their work, and leave."""
    for ending in _ENDINGS:
        signal.signal(ending, signal.SIG_IGN)
    session = os.getsid(0)
    for process in psutil.Process().children(recursive=True):
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            # A broker and a contender have sessions of their own, and a `with` that stops them.
            if os.getsid(process.pid) == session:
                # Not SIGKILL: Python's own tracker of resources ignores this, and is needed to
                # the end.
                process.terminate()
    print(f"Ended by {signal.Signals(number).name}.", file=sys.stderr)
    sys.exit(128 + number)
