"""Whether a connection of a client broke, as the client library logs it."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from streams.client_log import ClientLog, severity_of

#: A connection in any other state has carried no request but those that set it up.
_WAS_UP = re.compile(r"^FAIL .*\(after \d+ms in state (UP|REAUTH)\b")

_INFO = 6


class ConnectionLog(ClientLog):
    """Notes also that a connection broke which a client had.

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
        return super().settings() | {"log_level": max(_INFO, self._severity_max)}

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line of the log."""
        self.has_break |= _WAS_UP.search(record.getMessage()) is not None
        if severity_of(record) <= self._severity_max:
            super().emit(record)
