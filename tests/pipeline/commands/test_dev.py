"""`meterline dev`: one command to a broker with the topics, and nothing left of it afterwards."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from schemas.topics import CATALOGUE

ROOT = Path(__file__).parents[3]


@contextmanager
def meterline_dev(*options: str) -> Iterator[subprocess.Popen[str]]:
    """A running `meterline dev`, ended by force at the end if it has not ended before."""
    program = "from pipeline.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", program, "dev", *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], pattern: str) -> str:
    """The first line that the pattern occurs in."""
    assert process.stdout is not None
    for line in process.stdout:
        if re.search(pattern, line):
            return line
    raise AssertionError(f"it ended with {process.wait()} and never said {pattern}")


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_it_serves_the_catalogue_until_it_is_asked_to_end(ending: signal.Signals) -> None:
    with meterline_dev("--port", "0") as process:
        address = read_until(process, "Kafka answers on").split()[3].rstrip(",")
        directory = Path(read_until(process, "records and its log").split()[-1].rstrip("."))
        topics = AdminClient({"bootstrap.servers": address}).list_topics(timeout=10).topics
        assert {topic.name for topic in CATALOGUE} <= topics.keys()
        assert directory.exists()

        process.send_signal(ending)
        read_until(process, "Stopped")
        assert process.wait(60) == 0
        assert not directory.exists()


def test_a_directory_keeps_the_records_for_the_next_time(tmp_path: Path) -> None:
    with meterline_dev("--port", "0", "--directory", str(tmp_path)) as process:
        read_until(process, "Ctrl-C stops it")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert any((tmp_path / "data").glob("usage.events-*"))


def test_a_port_in_use_ends_it_with_2_and_the_remedy() -> None:
    with meterline_dev("--port", "0") as first:
        port = read_until(first, "Kafka answers on").split()[3].rstrip(",").split(":")[1]
        with meterline_dev("--port", port) as second:
            read_until(second, f"cannot listen on 127.0.0.1:{port}")
            read_until(second, "Remedy: .*another port")
            assert second.wait(60) == 2
        first.send_signal(signal.SIGINT)
        assert first.wait(60) == 0
