"""What client libraries log: passed on, but the same sentence only now and then.

While no broker answers, a client tells of each attempt to connect, twenty times a second.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import time
from collections.abc import Callable
from typing import Any

_SEVERITIES = {logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}
_MOST_SEVERE = 0

#: What may differ in sentences that are the same: which client, how long, and how many the library
#: itself has left out.
_VARYING = re.compile(r"#\w+-\d+|\b\d+ ?ms\b|, \d+ identical error\(s\) suppressed")


class SeldomRepeated(logging.Filter):
    """Lets the same sentence pass once in `QUIET_SECONDS`, with how many were left out before."""

    QUIET_SECONDS = 30.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        #: Sentence → when it passed, and how many of it were left out since.
        self._passed: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line passes."""
        line = record.getMessage()
        sentence = _VARYING.sub("", line)
        now = self._clock()
        passed_at, left_out = self._passed.get(sentence, (-self.QUIET_SECONDS, 0))
        if now - passed_at < self.QUIET_SECONDS:
            self._passed[sentence] = passed_at, left_out + 1
            return False
        if left_out:
            record.msg, record.args = f"{line} ({left_out} like this were left out)", ()
        # A sentence that goes on comes back soon after it may; any other is forgotten.
        self._passed = {
            known: passed
            for known, passed in self._passed.items()
            if now - passed[0] < 2 * self.QUIET_SECONDS
        } | {sentence: (now, 0)}
        return True


class ClientLog(logging.Handler):
    """Passes on what a client of librdkafka logs when it is polled, in the form that it has."""

    def __init__(self) -> None:
        super().__init__()
        self._seldom_repeated = SeldomRepeated()

    def settings(self) -> dict[str, Any]:
        """What the client must be given."""
        logger = logging.Logger("kafka")
        logger.addHandler(self)
        return {"logger": logger}

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line of the log."""
        if not self._seldom_repeated.filter(record):
            return
        # What is raised here is raised by the poll: a full disk would end the stage.
        with contextlib.suppress(OSError):
            line = f"%{severity_of(record)}|{record.created:.3f}|{record.getMessage()}"
            print(line, file=sys.stderr)


def severity_of(record: logging.LogRecord) -> int:
    """As syslog and librdkafka number it."""
    return _SEVERITIES.get(record.levelno, _MOST_SEVERE)
