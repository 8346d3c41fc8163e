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
    """Notes that a connection broke which a client had, and passes on what it logs.

    The callback for errors is not told of that. The client says it when it is polled, and before
    the answer to whatever it then sent again. Of like breaks it may leave out the third and later
    ones within 30 seconds. It is silent about a connection that was closed after a rest of
    `REST_SECONDS` or more, on which nothing was under way.
    """

    #: Half of the minute that librdkafka's `rd_kafka_broker_conn_closed` has.
    REST_SECONDS = 30.0

    def __init__(self, kafka: Mapping[str, Any]) -> None:
        super().__init__()
        self.has_break = False
        self._severity_max = int(kafka.get("log_level", _INFO))

    def settings(self) -> dict[str, Any]:
        """What the client must be given."""
        logger = logging.Logger("kafka")
        logger.addHandler(self)
        return {"logger": logger, "log_level": max(_INFO, self._severity_max)}

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line of the log."""
        line = record.getMessage()
        self.has_break |= _WAS_UP.search(line) is not None
        severity = _SEVERITIES.get(record.levelno, 0)
        if severity <= self._severity_max:
            print(f"%{severity}|{record.created:.3f}|{line}", file=sys.stderr)
