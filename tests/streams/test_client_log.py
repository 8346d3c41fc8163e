"""What client libraries log is passed on, and while no broker answers not all the time."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence

import pytest
import structlog

from schemas.topics import METERED
from streams.client_log import ClientLog, SeldomRepeated
from streams.clients import GroupConsumer, Place
from streams.confluent import ConfluentClients
from streams.local_kafka import LocalKafka
from tests.streams.on_kafka import WAIT_SECONDS_MAX

REFUSED = "FAIL [intake#consumer-%d] Connect to a:1 failed: refused (after %dms in state CONNECT%s)"


class Lines:
    """What of some lines passes, told at any time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._seldom_repeated = SeldomRepeated(lambda: self.now)

    def passed(self, text: str, *arguments: object) -> str | None:
        line = logging.makeLogRecord({"msg": text, "args": arguments})
        return line.getMessage() if self._seldom_repeated.filter(line) else None


def test_a_sentence_passes_once_in_30_seconds_and_then_says_how_many_were_left_out() -> None:
    lines = Lines()
    assert lines.passed(REFUSED, 4, 2, "") == REFUSED % (4, 2, "")
    for number in range(599):
        lines.now += 0.05
        suppressed = f", {number} identical error(s) suppressed" if number else ""
        assert lines.passed(REFUSED, 5, 0, suppressed) is None, "the same from another client"
    assert lines.passed("FAIL [intake#consumer-4] Disconnected") == (
        "FAIL [intake#consumer-4] Disconnected"
    )
    lines.now += 0.06
    again = REFUSED % (4, 0, "")
    assert lines.passed(again) == f"{again} (599 like this were left out)"
    lines.now += 0.05
    assert lines.passed(again) is None


def test_sentences_that_are_not_said_any_more_are_forgotten() -> None:
    """A process that runs for months must not keep all that it ever said."""
    lines = Lines()
    for number in range(1_000):
        lines.now += 1
        assert lines.passed("offset %d is odd", number)
    assert len(lines._seldom_repeated._passed) <= 2 * SeldomRepeated.QUIET_SECONDS + 1


class FullDisk(io.StringIO):
    """Where standard error goes."""

    def write(self, _: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_log_that_finds_no_room_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", FullDisk())
    ClientLog().settings()["logger"].error("no room")


def test_a_consumer_says_that_kafka_is_away_and_that_it_is_back_but_not_all_the_time(
    broker: LocalKafka, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("streams.stage.SESSION_TIMEOUT_MS", 2_000)
    times_assigned = 0

    def assign(places: Sequence[Place]) -> None:
        nonlocal times_assigned
        times_assigned += 1
        consumer.assign(dict.fromkeys(places))

    with structlog.testing.capture_logs() as ours:
        consumer = ConfluentClients({"bootstrap.servers": broker.address}).consumer("away", "a")
        consumer.subscribe([METERED.name], assign, lambda _: consumer.unassign())
        read_until(consumer, lambda: times_assigned == 1)
        broker.kill()
        read_until(consumer, lambda: len(ours) == 1)
        broker.revive()
        read_until(consumer, lambda: times_assigned == 2)
        consumer.close()
    assert [(line["event"], line["group"]) for line in ours] == [
        ("partitions lost, as Kafka and this process do not hear of each other", "meterline.away"),
        ("partitions assigned again", "meterline.away"),
    ]
    refused = [line for line in capfd.readouterr().err.splitlines() if "refused" in line]
    assert 0 < len(refused) == len({line.split("|")[2] for line in refused}) < 10


def read_until(consumer: GroupConsumer, done: Callable[[], bool]) -> None:
    give_up = time.monotonic() + WAIT_SECONDS_MAX
    while not done():
        assert time.monotonic() < give_up
        consumer.read(1, 0.1)
