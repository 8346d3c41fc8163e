"""Connections: clear faults, and no client is used again after an error."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydantic import SecretStr

from pipeline.errors import MeterlineError, Retry, Stop
from sinks.clickhouse.connect import Connection, connect

CANARY = SecretStr("canary-5d41402a")


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("chdb:///", "no directory"),
        ("chdb://relative/path", "no directory"),
        ("chdb:///proc/none%3Fa=b", "question mark: /proc/none\\?a=b"),
        ("http://", "no ClickHouse address"),
        ("postgres://host/db", "no ClickHouse address"),
        ("http://host:99999/db", "no valid port"),
        (f"http://user:{CANARY.get_secret_value()}@host/db", "contains a password"),
    ],
)
def test_an_address_that_is_none_is_shown_with_the_remedy(url: str, fault: str) -> None:
    with pytest.raises(Stop, match=fault) as stop:
        connect(url, CANARY)
    assert "METERLINE_CLICKHOUSE_URL" in stop.value.remedy
    assert CANARY.get_secret_value() not in str(stop.value)


def test_a_directory_in_use_names_the_process_that_uses_it(tmp_path: Path) -> None:
    program = (
        "import sys; from pydantic import SecretStr; from sinks.clickhouse.connect import connect;"
        "client = connect(sys.argv[1], SecretStr('')); print('open', flush=True); input()"
    )
    url = f"chdb://{tmp_path}/clickhouse"
    with subprocess.Popen(
        [sys.executable, "-c", program, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(Stop, match=f"in use by another process .*{other.pid}"):
            connect(url, SecretStr(""))
        other.communicate("\n")
    client = connect(url, SecretStr(""))
    assert client.query("SELECT 1").result_rows == [(1,)]
    client.close()


def test_a_second_directory_in_one_process_is_a_clear_fault(
    unmigrated: Connection, tmp_path: Path
) -> None:
    with unmigrated.client(), pytest.raises(Stop, match="already has another"):
        connect(f"chdb://{tmp_path}/second", SecretStr(""))


def test_a_directory_that_cannot_be_made_is_a_clear_fault() -> None:
    with pytest.raises(Stop, match="cannot open /proc/none"):
        connect("chdb:///proc/none", SecretStr(""))


def test_rows_of_a_failed_query_never_reach_the_next_one(unmigrated: Connection) -> None:
    """Now and then they do when the failed client is used again, so it never is."""
    with unmigrated.client() as failed:
        pass
    with pytest.raises(Stop, match="throwIf"), unmigrated.client() as client:
        client.query("SELECT number, throwIf(number = 200000) FROM numbers(300000)")
    with unmigrated.client() as client:
        assert client is not failed
        assert client.query("SELECT 1").result_rows == [(1,)]


@pytest.mark.parametrize(
    ("status", "code", "reaction", "remedy"),
    [
        (500, "241", Retry, "load"),  # MEMORY_LIMIT_EXCEEDED
        (500, "243", Retry, "disk"),  # NOT_ENOUGH_SPACE
        (500, "252", Retry, "load"),  # TOO_MANY_PARTS
        (502, None, Retry, "network"),
        (503, None, Retry, "network"),
        (504, None, Retry, "network"),
        (403, "516", Stop, "METERLINE_CLICKHOUSE_PASSWORD"),  # AUTHENTICATION_FAILED
        (404, "60", Stop, "meterline migrate"),  # UNKNOWN_TABLE
        (404, "81", Stop, "Create the database"),  # UNKNOWN_DATABASE
        (400, "53", Stop, "log"),  # TYPE_MISMATCH
        (401, None, Stop, "log"),
    ],
)
def test_what_a_server_answers_decides_between_retry_and_stop(
    status: int, code: str | None, reaction: type[MeterlineError], remedy: str
) -> None:
    with answering(status, code) as url, pytest.raises(reaction, match=remedy) as error:
        connect(url, CANARY)
    assert CANARY.get_secret_value() not in str(error.value)


def test_a_full_disk_of_this_machine_is_waited_for(unmigrated: Connection) -> None:
    """The embedded engine takes rows from a temporary file."""
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(Retry, match="No space left"), unmigrated.client():
        raise full


def test_a_server_that_is_not_there_is_tried_again() -> None:
    with answering(200, None) as url:
        pass
    with pytest.raises(Retry, match=r"No ClickHouse answers at 127.0.0.1:\d+: .*refused") as retry:
        connect(url, CANARY)
    assert "METERLINE_CLICKHOUSE_URL" in retry.value.remedy


def test_a_server_without_encryption_is_not_taken_for_one_with_it() -> None:
    with (
        answering(200, None) as url,
        pytest.raises(Retry, match=r"No ClickHouse answers at .*SSL") as retry,
    ):
        connect(url.replace("http://", "https://"), CANARY)
    assert "METERLINE_CLICKHOUSE_URL" in retry.value.remedy


@contextmanager
def answering(status: int, code: str | None) -> Iterator[str]:
    """The address of an HTTP server that gives every request the same answer."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            if code is not None:
                self.send_header("X-ClickHouse-Exception-Code", code)
            body = b"" if code is None else f"Code: {code}. DB::Exception: words".encode()
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST  # noqa: N815 - the name is http.server's

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the test's output is for its failures."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://user@127.0.0.1:{server.server_port}/usage"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
