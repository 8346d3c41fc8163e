"""What each error of ClickHouse asks for: to try again, or a person.

Codes: https://github.com/ClickHouse/ClickHouse/blob/master/src/Common/ErrorCodes.cpp
"""

from __future__ import annotations

import re

from clickhouse_connect.driver.exceptions import ClickHouseError, Error, OperationalError
from urllib3.exceptions import ConnectTimeoutError, MaxRetryError, NewConnectionError, SSLError

from pipeline.errors import MeterlineError, Retry, Stop

#: The server is overloaded, starting, losing its network or out of room: none of it is about the
#: rows, and a person can mend it while the sink waits.
RETRIED = {
    3: "UNEXPECTED_END_OF_FILE",
    23: "CANNOT_READ_FROM_ISTREAM",
    24: "CANNOT_WRITE_TO_OSTREAM",
    74: "CANNOT_READ_FROM_FILE_DESCRIPTOR",
    75: "CANNOT_WRITE_TO_FILE_DESCRIPTOR",
    76: "CANNOT_OPEN_FILE",
    95: "CANNOT_READ_FROM_SOCKET",
    96: "CANNOT_WRITE_TO_SOCKET",
    159: "TIMEOUT_EXCEEDED",
    160: "TOO_SLOW",
    198: "DNS_ERROR",
    201: "QUOTA_EXCEEDED",
    202: "TOO_MANY_SIMULTANEOUS_QUERIES",
    203: "NO_FREE_CONNECTION",
    209: "SOCKET_TIMEOUT",
    210: "NETWORK_ERROR",
    225: "NO_ZOOKEEPER",
    236: "ABORTED",
    241: "MEMORY_LIMIT_EXCEEDED",
    242: "TABLE_IS_READ_ONLY",
    243: "NOT_ENOUGH_SPACE",
    252: "TOO_MANY_PARTS",
    279: "ALL_CONNECTION_TRIES_FAILED",
    285: "TOO_FEW_LIVE_REPLICAS",
    286: "UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE",
    319: "UNKNOWN_STATUS_OF_INSERT",
    373: "SESSION_IS_LOCKED",
    394: "QUERY_WAS_CANCELLED",
    425: "SYSTEM_ERROR",
    439: "CANNOT_SCHEDULE_TASK",
    473: "DEADLOCK_AVOIDED",
    745: "SERVER_OVERLOADED",
    999: "KEEPER_EXCEPTION",
}

_MIGRATE = "Run `meterline migrate` with this version of Meterline, then start again."
_ACCOUNT = (
    "Correct the user in METERLINE_CLICKHOUSE_URL and METERLINE_CLICKHOUSE_PASSWORD, "
    "or give that user INSERT and SELECT on the database."
)
_STOP_REMEDIES = {
    16: _MIGRATE,  # NO_SUCH_COLUMN_IN_TABLE
    60: _MIGRATE,  # UNKNOWN_TABLE
    81: "Create the database named in METERLINE_CLICKHOUSE_URL, then run `meterline migrate`.",
    192: _ACCOUNT,  # UNKNOWN_USER
    193: _ACCOUNT,  # WRONG_PASSWORD
    194: _ACCOUNT,  # REQUIRED_PASSWORD
    497: _ACCOUNT,  # ACCESS_DENIED
    516: _ACCOUNT,  # AUTHENTICATION_FAILED
}

#: There was no connection, so nothing was said to a server.
_UNCONNECTED = (ConnectTimeoutError, NewConnectionError, SSLError)

_HTTP_STATUS = re.compile(r"HTTP status (\d{3})")
_RETRIED_STATUS = re.compile(r"408|429|5\d\d")
_TEXT_LENGTH_MAX = 300


def reaction(error: ClickHouseError) -> MeterlineError:
    """The error of ours that `error` asks for: `Retry` or `Stop`."""
    refused = error.__cause__
    if isinstance(refused, MaxRetryError) and isinstance(refused.reason, _UNCONNECTED):
        return Retry(
            f"No ClickHouse answers at {refused.pool.host}:{refused.pool.port}: "
            f"{refused.reason.__cause__ or refused.reason}.",
            remedy="Check METERLINE_CLICKHOUSE_URL and that the server runs.",
        )
    code = error.code if isinstance(error, Error) else None
    text = " ".join(str(error).split())[:_TEXT_LENGTH_MAX]
    if code in RETRIED or (code is None and _is_transport(error, text)):
        return Retry(
            f"ClickHouse does not take it now: {text}",
            remedy="Nothing, if it passes; else look after the server's load, disk and network.",
        )
    return Stop(
        f"ClickHouse refuses: {text}",
        remedy=_STOP_REMEDIES.get(
            code or 0, "Find this error in ClickHouse's log; nothing was committed, so start again."
        ),
    )


def _is_transport(error: ClickHouseError, text: str) -> bool:
    """Without a code of ClickHouse it was the network, or a proxy that answered in its place."""
    status = _HTTP_STATUS.search(text)
    if status is not None:
        return _RETRIED_STATUS.fullmatch(status[1]) is not None
    return isinstance(error, OperationalError)
