"""The watch on a real broker: forecasts once, over clean and unclean ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth

from pipeline.errors import Retry, Stop
from pipeline.periods import DAY_MS, PERIOD_DAYS_MAX
from pipeline.settings import Settings
from schemas.definitions import Definitions
from schemas.forecast import Forecast
from schemas.frame import Kind, seal
from schemas.topics import FORECASTS, LARGE_RECORDS, SHARDS, TOTALS
from schemas.total import TOTAL_COLUMNS
from streams.local_kafka import LocalKafka
from streams.watch import credentials, run_watch

WAIT_SECONDS_MAX = 60
#: Kafka's default of `segment.ms`: a record may stay for that much longer than its retention.
SEGMENT_MS = 7 * DAY_MS
START = datetime(2026, 11, 1, tzinfo=UTC)
DEFINITIONS = Definitions.model_validate(
    {
        "meters": [{"slug": "calls", "event_type": "call", "aggregation": "count"}],
        "plans": [
            {"slug": "free", "limits": [{"meter": "calls", "limit": 100, "thresholds": ["80%"]}]}
        ],
        "default_plan": "free",
    }
)
RUN_WATCH = """
import sys
from pathlib import Path
from pipeline.errors import Retry
from pipeline.settings import Settings
from schemas.definitions import Definitions
from streams.watch import run_watch
definitions = Definitions.model_validate_json(Path(sys.argv[2]).read_text())
run_watch(Settings(bootstrap_servers=sys.argv[1]), definitions)
"""

StartWatch = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def start_watch(tmp_path: Path) -> Iterator[StartWatch]:
    """Starts watches in a directory of their own, `tmp_path / "work"`."""
    document, work = tmp_path / "definitions.json", tmp_path / "work"
    document.write_text(DEFINITIONS.model_dump_json())
    work.mkdir()
    started = []

    def start(address: str) -> subprocess.Popen[str]:
        watch = subprocess.Popen(
            [sys.executable, "-c", RUN_WATCH, address, str(document)],
            cwd=work,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(watch)
        return watch

    yield start
    for watch in started:
        watch.kill()
        watch.communicate()


def totals(*customers: str, events: int = 40, start: datetime = START) -> bytes:
    """A frame: on the eleventh of a month of thirty days, a limit of 100 will not last."""
    rows = [
        {
            "customer": customer,
            "meter": "calls",
            "period_start": start,
            "period_end": start + timedelta(days=30),
            "group": "{}",
            "value": str(events),
            "usage": str(events),
            "events": events,
            "as_of": start + timedelta(days=10),
        }
        for customer in customers
    ]
    batch = pa.RecordBatch.from_pylist(rows, schema=TOTAL_COLUMNS)
    return seal(Kind.TOTALS, {"version": 1}, [batch])


def publish(broker: LocalKafka, frames: dict[int, bytes]) -> None:
    producer = Producer(
        {
            "bootstrap.servers": broker.address,
            "compression.type": "lz4",
            "message.max.bytes": LARGE_RECORDS["max.message.bytes"],
        }
    )
    for partition, frame in frames.items():
        producer.produce(TOTALS.name, frame, partition=partition)
    assert producer.flush(WAIT_SECONDS_MAX) == 0


def forecasts(broker: LocalKafka) -> list[tuple[int, bytes | None, Forecast]]:
    """Every record of usage.forecasts: partition, key and value."""
    consumer = Consumer(
        {
            "bootstrap.servers": broker.address,
            "group.id": "test",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 10,
        }
    )
    consumer.assign([TopicPartition(FORECASTS.name, shard, 0) for shard in range(SHARDS)])
    found, ended = [], 0
    while ended < SHARDS:
        record = consumer.poll(WAIT_SECONDS_MAX)
        assert record is not None
        if record.error():
            ended += 1
        else:
            forecast = Forecast.model_validate_json(record.value() or b"")
            found.append((record.partition() or 0, record.key(), forecast))
    consumer.close()
    return sorted(found, key=lambda record: record[0])


def customers(found: Iterable[tuple[int, bytes | None, Forecast]]) -> list[str]:
    return [forecast.customer for _, _, forecast in found]


def wait_for(broker: LocalKafka, expected: set[str]) -> list[tuple[int, bytes | None, Forecast]]:
    give_up = time.monotonic() + WAIT_SECONDS_MAX
    while True:
        found = forecasts(broker)
        if expected <= set(customers(found)):
            return found
        assert time.monotonic() < give_up, f"forecasts of {expected} did not come; found {found}"
        time.sleep(0.2)  # A client of its own each time, beside a watch that starts.


def stop(watch: subprocess.Popen[str]) -> str:
    watch.send_signal(signal.SIGTERM)
    output, _ = watch.communicate(timeout=WAIT_SECONDS_MAX)
    assert watch.returncode == 0, output
    return output


def test_a_forecast_is_published_beside_its_totals_and_the_watch_ends_quietly(
    broker: LocalKafka, start_watch: StartWatch, tmp_path: Path
) -> None:
    many = totals(*(f"steady_{number}" for number in range(60_000)), events=1)
    assert len(many) > 2 * 1024 * 1024
    publish(broker, {3: totals("cus_3", "cus_4"), 7: many, 9: totals("cus_9")})
    watch = start_watch(broker.address)
    found = wait_for(broker, {"cus_3", "cus_4", "cus_9"})
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", 6066))
    output = stop(watch)

    assert [(shard, key, forecast.customer) for shard, key, forecast in found] == [
        (3, b"cus_3", "cus_3"),
        (3, b"cus_4", "cus_4"),
        (9, b"cus_9", "cus_9"),
    ]
    assert found[0][2] == Forecast(
        customer="cus_3",
        meter="calls",
        period_start=START,
        period_end=START + timedelta(days=30),
        threshold="80%",
        usage="40",
        projected="120",
        crosses_at=START + timedelta(days=20),
        as_of=START + timedelta(days=10),
    )
    assert output == ""
    assert list((tmp_path / "work").iterdir()) == []


def test_a_watch_that_takes_over_from_a_killed_one_repeats_no_forecast(
    broker: LocalKafka, start_watch: StartWatch
) -> None:
    """It reads the same totals again: the killed one had no time to commit its offsets."""
    before = {f"cus_{shard}" for shard in range(SHARDS)}
    publish(broker, {shard: totals(f"cus_{shard}") for shard in range(SHARDS)})
    killed = start_watch(broker.address)
    wait_for(broker, before)
    killed.kill()
    killed.wait()

    publish(broker, {shard: totals(f"new_{shard}") for shard in range(SHARDS)})
    watch = start_watch(broker.address)
    found = wait_for(broker, {f"new_{shard}" for shard in range(SHARDS)})
    stop(watch)
    assert set(Counter(customers(found)).values()) == {1}


def test_a_shard_that_is_read_months_ahead_of_another_makes_it_repeat_no_forecast(
    broker: LocalKafka, start_watch: StartWatch
) -> None:
    watch = start_watch(broker.address)
    publish(broker, {3: totals("cus_3")})
    wait_for(broker, {"cus_3"})
    publish(broker, {9: totals("cus_9", start=START + timedelta(days=90))})
    wait_for(broker, {"cus_9"})
    publish(broker, {3: totals("cus_3", "new_3")})
    found = wait_for(broker, {"new_3"})
    stop(watch)
    assert customers(found) == ["cus_3", "new_3", "cus_9"]


def test_a_forecast_is_kept_until_the_last_total_that_could_repeat_it_is_gone() -> None:
    """Else a watch that was down for long, or lost its offsets, would read that total anew."""
    last_total_ms = PERIOD_DAYS_MAX * DAY_MS + TOTALS.retention_ms + SEGMENT_MS
    assert FORECASTS.retention_ms >= last_total_ms


def test_a_damaged_total_stops_the_watch_each_time_until_a_person_acts(
    broker: LocalKafka, start_watch: StartWatch
) -> None:
    publish(broker, {5: totals("cus_5")})
    publish(broker, {5: totals("cus_6")[:-1]})
    for _ in range(2):
        watch = start_watch(broker.address)
        output, _ = watch.communicate(timeout=WAIT_SECONDS_MAX)
        assert watch.returncode != 0
        assert "Stop: usage.totals-5 at offset 1: checksum mismatch" in output
    assert customers(forecasts(broker)) == ["cus_5"]


def test_without_a_broker_the_watch_says_what_to_check(start_watch: StartWatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        watch = start_watch(f"127.0.0.1:{unused.getsockname()[1]}")
        output, _ = watch.communicate(timeout=WAIT_SECONDS_MAX)
    assert watch.returncode != 0
    assert "Retry: Kafka does not answer" in output
    assert "Check METERLINE_BOOTSTRAP_SERVERS" in output


def test_while_its_broker_is_away_the_watch_does_not_repeat_itself(
    broker: LocalKafka, start_watch: StartWatch
) -> None:
    publish(broker, {3: totals("cus_3")})
    watch = start_watch(broker.address)
    wait_for(broker, {"cus_3"})
    broker.kill()
    time.sleep(2)  # It tells of some seventy attempts a second.
    broker.revive()
    lines = stop(watch).splitlines()
    assert any("Unable connect to node" in line for line in lines)
    assert len(lines) == len(set(lines)) < 20


def test_a_watch_that_gets_no_answer_ends_when_it_is_told_to(start_watch: StartWatch) -> None:
    with silent_broker() as silent:
        watch = start_watch(address_of(silent))
        connection, _ = silent.accept()
        with connection:
            assert stop(watch) == ""


def test_a_watch_that_gets_no_answer_does_not_wait_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("streams.watch._START_SECONDS_MAX", 0.5)
    with silent_broker() as silent, pytest.raises(Retry, match="does not let the watch begin"):
        run_watch(Settings(bootstrap_servers=address_of(silent)), DEFINITIONS)


def silent_broker() -> socket.socket:
    """Takes connections and never says a word."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(WAIT_SECONDS_MAX)
    return listener


def address_of(listener: socket.socket) -> str:
    return f"127.0.0.1:{listener.getsockname()[1]}"


def test_faust_is_told_the_same_credentials_as_every_other_client() -> None:
    user = {"sasl_username": "ada", "sasl_password": "secret"}
    assert told() == {"security_protocol": "PLAINTEXT"}
    assert told(security_protocol="SASL_PLAINTEXT", sasl_mechanism="PLAIN", **user) == {
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "PLAIN",
        "sasl_plain_username": "ada",
        "sasl_plain_password": "secret",
        "ssl_context": None,
    }
    for protocol in ("SSL", "SASL_SSL"):
        encrypted = told(security_protocol=protocol, **user)
        assert encrypted["security_protocol"] == protocol
        assert encrypted["ssl_context"].check_hostname
    assert encrypted["sasl_mechanism"] == "SCRAM-SHA-512"


def told(**settings: str) -> Mapping[str, Any]:
    return credentials_to_aiokafka_auth(credentials(Settings.model_validate(settings)))


def test_where_there_is_no_room_for_temporary_files_the_watch_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with pytest.raises(Stop, match="no room for temporary files") as stop:
        run_watch(Settings(), DEFINITIONS)
    assert "TMPDIR" in stop.value.remedy
