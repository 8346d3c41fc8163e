"""What the client library logs is passed on as before, and connections that broke are noted."""

from __future__ import annotations

import logging

import pytest

from pipeline.record import Outgoing
from streams.confluent import ConfluentClients
from streams.confluent_writers import ConfluentTransactions
from streams.connection_log import ConnectionLog
from tests.streams.on_kafka import create, read

BROKE = "[thrd:TxnCoordinator]: Disconnected: connection reset by peer (after 121ms in state UP)"
REFUSED = "[thrd:a:1/1]: Connect to a:1 failed: Connection refused (after 0ms in state CONNECT)"


def told(log: ConnectionLog, level: int, facility: str, text: str) -> None:
    """A line, as the client library hands it over."""
    log.settings()["logger"].log(level, "%s [%s] %s", facility, "p", text)


def test_a_connection_that_was_up_and_broke_is_noted_however_low_the_line_is() -> None:
    for level in (logging.INFO, logging.WARNING, logging.ERROR):
        log = ConnectionLog({})
        told(log, level, "FAIL", BROKE)
        assert log.has_break


def test_a_connection_that_never_was_is_not() -> None:
    """Else each transaction would claim its id anew as long as one of many brokers is away."""
    log = ConnectionLog({})
    told(log, logging.ERROR, "FAIL", REFUSED)
    assert not log.has_break


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({}, ["%3", "%4", "%6"]),
        ({"log_level": "3"}, ["%3"]),
        ({"log_level": 0}, []),
        ({"log_level": "7", "debug": "eos"}, ["%3", "%4", "%6", "%7"]),
    ],
)
def test_lines_are_shown_that_would_be_shown_without_it(
    settings: dict[str, str], shown: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for level in (logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG):
        told(ConnectionLog(settings), level, "FAIL", REFUSED)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("|")[0] for line in lines] == shown
    assert all(line.endswith(f"|FAIL [p] {REFUSED}") for line in lines)


def test_a_client_logs_what_must_be_known_also_when_it_shall_be_silent() -> None:
    assert ConnectionLog({"log_level": "0"}).settings()["log_level"] == 6
    assert ConnectionLog({"log_level": "7"}).settings()["log_level"] == 7


def test_a_writer_that_rested_claims_its_id_anew(
    kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what broke meanwhile it may have said nothing."""
    create(kafka, 1, "rested")
    fences = 0
    fence = ConfluentTransactions.fence

    def counting(self: ConfluentTransactions) -> None:
        nonlocal fences
        fences += 1
        fence(self)

    monkeypatch.setattr(ConfluentTransactions, "fence", counting)
    writer = ConfluentClients({"bootstrap.servers": kafka}).transactional_writer("rested", "a")
    writer.fence()
    for number, expected in enumerate([1, 1, 2]):
        if expected == 2:
            monkeypatch.setattr(ConnectionLog, "REST_SECONDS", 0)
        writer.begin()
        writer.write([Outgoing("rested", b"%d" % number, partition=0)])
        writer.commit()
        assert fences == expected
    assert [record.value for record in read(kafka, "rested")] == [b"0", b"1", b"2"]
