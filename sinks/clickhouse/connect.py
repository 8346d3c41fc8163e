"""Connections to a ClickHouse server, or to the engine inside this process (chDB).

Above this module both are one clickhouse-connect client.
"""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from pydantic import SecretStr

from pipeline.errors import Retry, Stop
from sinks.clickhouse.faults import reaction

# It tells of every failure besides; what matters is raised.
logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)

_CONNECT_SECONDS_MAX = 10
_ANSWER_SECONDS_MAX = 120

#: By default the server may acknowledge rows before they are written. It also looks within each
#: INSERT for rows of one key, which takes a fifth of its time; FINAL and merges find them anyway.
_SETTINGS = {"async_insert": 0, "optimize_on_insert": 0}

_URL_REMEDY = (
    "Set METERLINE_CLICKHOUSE_URL to http://user@host:8123/database, https://… or "
    "chdb:///absolute/directory, and the password to METERLINE_CLICKHOUSE_PASSWORD."
)


class Connection:
    """One client, made when first used and thrown away after any error.

    An embedded client that has failed once gives rows of the failed query to the next one, so it
    must never be used again. Not for several threads at once: each takes a connection of its own.
    """

    def __init__(self, url: str, password: SecretStr) -> None:
        self._url = url
        self._password = password
        self._client: Client | None = None

    @contextmanager
    def client(self) -> Iterator[Client]:
        """The client, for one piece of work.

        Raises:
            Retry: ClickHouse, the network or this machine cannot now.
            Stop: it refuses; see `faults`.
        """
        if self._client is None:
            self._client = connect(self._url, self._password)
        try:
            yield self._client
        except BaseException as error:
            self.close()
            if isinstance(error, ClickHouseError):
                raise reaction(error) from error
            if isinstance(error, OSError):
                raise Retry(
                    f"ClickHouse's client cannot work here: {error}.",
                    remedy="Make room for temporary files, or lift this process's limits.",
                ) from error
            raise

    def close(self) -> None:
        """Let go of the server, or of the embedded engine's directory."""
        if self._client is not None:
            self._client.close()
            self._client = None


def connect(url: str, password: SecretStr) -> Client:
    """A client for `http(s)://user@host:8123/database` or `chdb:///absolute/directory`.

    Times are read as aware datetimes in UTC.

    Raises:
        Retry: no server answers.
        Stop: the URL is none of these, the server refuses, or the directory is in use.
    """
    parts = urlsplit(url)
    if parts.scheme == "chdb":
        return _embedded(parts)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Stop(f"{parts.scheme}:// with no host is no ClickHouse address.", remedy=_URL_REMEDY)
    if parts.password is not None:
        raise Stop("The ClickHouse address contains a password.", remedy=_URL_REMEDY)
    try:
        return clickhouse_connect.get_client(
            interface=parts.scheme,
            host=parts.hostname,
            port=_port(parts),
            username=unquote(parts.username or "default"),
            password=password.get_secret_value(),
            database=unquote(parts.path.strip("/")) or "default",
            settings=dict(_SETTINGS),
            connect_timeout=_CONNECT_SECONDS_MAX,
            send_receive_timeout=_ANSWER_SECONDS_MAX,
            tz_mode="aware",
            # In a session, a query that timed out here locks the next one out until it ends there.
            autogenerate_session_id=False,
        )
    except ClickHouseError as error:
        raise reaction(error) from error


def _port(parts: SplitResult) -> int:
    try:
        return parts.port or (8443 if parts.scheme == "https" else 8123)
    except ValueError:
        raise Stop("The ClickHouse address has no valid port.", remedy=_URL_REMEDY) from None


def _embedded(parts: SplitResult) -> Client:
    path = unquote(parts.path)
    if parts.netloc or not path.strip("/"):
        raise Stop("The address of the embedded engine has no directory.", remedy=_URL_REMEDY)
    if "?" in path:
        # It would take what follows for options, and keep its tables in another directory.
        raise Stop(
            f"The embedded ClickHouse can open no directory with a question mark: {path}.",
            remedy="Name another directory in METERLINE_CLICKHOUSE_URL.",
        )
    try:
        return clickhouse_connect.get_client(
            interface="chdb", path=path, settings=dict(_SETTINGS), tz_mode="aware"
        )
    except ClickHouseError as error:
        raise _cannot_open(Path(path), error) from error


def _cannot_open(directory: Path, error: ClickHouseError) -> Stop:
    """Why the engine did not start: its own message leaves the reason out."""
    if "already initialized with path" in str(error):
        return Stop(
            f"This process already has another embedded ClickHouse open than {directory}.",
            remedy="Use one directory a process: close the other connection first.",
        )
    holder = _holder(directory)
    if holder is not None:
        return Stop(
            f"The embedded ClickHouse in {directory} is in use by {holder}.",
            remedy="One process at a time can open it: stop the other one, or set "
            "METERLINE_CLICKHOUSE_URL to a ClickHouse server, which many can share.",
        )
    return Stop(
        f"The embedded ClickHouse cannot open {directory}.",
        remedy="Make it a directory that this user may write to, with free space; "
        "the engine's own reason stands in this process's error output.",
    )


def _holder(directory: Path) -> str | None:
    """Which process has the engine's lock: it writes its id into the file that it locks."""
    try:
        with (directory / "status").open("rb") as status:
            try:
                fcntl.flock(status, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                first_line = status.readline(100).decode("ascii", "replace").strip()
                return f"another process ({first_line})" if first_line else "another process"
    except OSError:
        return None
    return None
