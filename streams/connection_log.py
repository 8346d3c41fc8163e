"""Whether a connection of a client broke, as the client library logs it."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any

#: A connection in any other state has carried no request but those that set it up.
_WAS_UP = re.compile(r"^FAIL .*\(after \d+ms in state (UP|REAUTH)\b")

_SEVERITIES = {logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}
_INFO = 6


class ConnectionLog(logging.Handler):
    """Notes each break of a connection that a client had, and passes on what it logs.

    The callback for errors is not told of these, and the usual log leaves out one that is like the
    one before. The client says them when it is polled, and before the answer to whatever it then
    sent again.
    """

    def __init__(self, kafka: Mapping[str, Any]) -> None:
        super().__init__()
        self.has_break = False
        self._severity_max = int(kafka.get("log_level", _INFO))
        self._debug = kafka.get("debug")

    def settings(self) -> dict[str, Any]:
        """What the client must be given."""
        logger = logging.Logger("kafka")
        logger.addHandler(self)
        contexts = ["broker", *filter(None, [self._debug])]
        return {"logger": logger, "log_level": 7, "debug": ",".join(contexts)}

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line of the log."""
        line = record.getMessage()
        self.has_break |= _WAS_UP.search(line) is not None
        severity = _SEVERITIES.get(record.levelno, 0)
        if severity <= self._severity_max and (severity <= _INFO or self._debug):
            print(f"%{severity}|{record.created:.3f}|{line}", file=sys.stderr)
