"""The local broker: real, transactional, durable over a kill, and gone when it should be."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from pipeline.errors import Stop
from schemas.topics import Topic
from streams.local_kafka import LocalKafka, free_port
from streams.topics import create_topics

ROOT = Path(__file__).parents[2]


def create_topic(address: str, name: str) -> None:
    create_topics({"bootstrap.servers": address}, [Topic(name, 1, -1, "")])


def write(address: str, topic: str, *values: bytes, commit: bool = True) -> None:
    """Writes the values in one transaction and ends it."""
    producer = Producer(
        {"bootstrap.servers": address, "transactional.id": f"test-{topic}", "log_level": 0}
    )
    producer.init_transactions(10)
    producer.begin_transaction()
    for value in values:
        producer.produce(topic, value)
    producer.flush(10)
    if commit:
        producer.commit_transaction(10)
    else:
        producer.abort_transaction(10)


def read_committed(address: str, topic: str) -> list[bytes]:
    """Every committed record of the topic, up to its end."""
    consumer = Consumer(
        {
            "bootstrap.servers": address,
            "group.id": f"read-{topic}",
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
        }
    )
    consumer.subscribe([topic])
    values: list[bytes] = []
    try:
        while (message := consumer.poll(20)) is not None and message.error() is None:
            values.append(message.value() or b"")
    finally:
        consumer.close()
    assert message is not None, "the broker never told the end of the topic"
    return values


def processes_naming(text: str) -> list[int]:
    """The living processes whose command line has the text."""
    listed = subprocess.run(
        ["ps", "-eww", "-o", "pid=,stat=,args="], capture_output=True, text=True
    )
    return [
        int(line.split()[0])
        for line in listed.stdout.splitlines()
        if text in line and not line.split()[1].startswith("Z")
    ]


def eventually(condition: Callable[[], bool], seconds_max: float = 20) -> bool:
    deadline = time.monotonic() + seconds_max
    while not (holds := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds


def test_a_reader_sees_what_was_committed_and_nothing_of_what_was_aborted(kafka: str) -> None:
    create_topic(kafka, "commit-and-abort")
    write(kafka, "commit-and-abort", b"aborted", commit=False)
    write(kafka, "commit-and-abort", b"committed")
    assert read_committed(kafka, "commit-and-abort") == [b"committed"]


def test_the_broker_has_the_current_transactions_and_group_protocol(kafka: str) -> None:
    create_topic(kafka, "new-protocol")
    write(kafka, "new-protocol", b"one")
    consumer = Consumer(
        {"bootstrap.servers": kafka, "group.id": "new", "group.protocol": "consumer"}
        | {"auto.offset.reset": "earliest"}
    )
    consumer.subscribe(["new-protocol"])
    try:
        message = consumer.poll(20)
        assert message is not None
        assert message.error() is None
    finally:
        consumer.close()


def test_topics_do_not_appear_by_themselves(kafka: str) -> None:
    producer = Producer({"bootstrap.servers": kafka, "message.timeout.ms": 2000})
    producer.produce("never-created", b"lost?")
    producer.flush(10)
    assert (
        "never-created"
        not in AdminClient({"bootstrap.servers": kafka}).list_topics(timeout=10).topics
    )


def test_what_was_committed_outlives_a_kill(tmp_path: Path) -> None:
    with LocalKafka(tmp_path) as kafka:
        create_topic(kafka.address, "durable")
        write(kafka.address, "durable", b"before")
        address = kafka.address
        kafka.kill()
        assert kafka.start() == address
        write(address, "durable", b"after")
        assert read_committed(address, "durable") == [b"before", b"after"]


def test_a_second_life_in_the_same_directory_has_the_records_of_the_first(tmp_path: Path) -> None:
    with LocalKafka(tmp_path) as first:
        create_topic(first.address, "kept")
        write(first.address, "kept", b"first")
    with LocalKafka(tmp_path) as second:
        assert read_committed(second.address, "kept") == [b"first"]


def test_a_directory_may_have_any_name(tmp_path: Path) -> None:
    with LocalKafka(tmp_path / "Zähler, a\\b #1?%41") as kafka:
        create_topic(kafka.address, "kept")
        write(kafka.address, "kept", b"value")
        assert read_committed(kafka.address, "kept") == [b"value"]
        assert " INFO " in (kafka.directory / "broker.log").read_text()


def test_a_file_is_no_directory_and_nobody_is_told_to_remove_it(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("precious")
    for directory in (file, file / "below"):
        with pytest.raises(Stop, match=f"{directory}: it is no directory") as stop:
            LocalKafka(directory).start()
        assert "remove" not in stop.value.remedy
    assert file.read_text() == "precious"


def test_a_broker_that_died_comes_back_and_one_that_lives_is_left_alone(tmp_path: Path) -> None:
    with LocalKafka(tmp_path) as kafka:
        first = kafka.pid
        kafka.revive()
        assert kafka.pid == first
        assert first is not None
        os.kill(first, signal.SIGKILL)
        with pytest.raises(Stop, match="ended by itself with -9"):
            kafka.wait()
        kafka.revive()
        assert kafka.pid not in (None, first)
        create_topic(kafka.address, "alive")


def test_stopping_leaves_neither_a_process_nor_a_directory() -> None:
    kafka = LocalKafka()
    kafka.start()
    assert processes_naming(str(kafka.directory))
    kafka.stop()
    assert eventually(lambda: not processes_naming(str(kafka.directory)))
    assert not kafka.directory.exists()


@pytest.mark.parametrize("in_a_thread", [False, True], ids=["main thread", "thread that ended"])
def test_the_broker_dies_with_a_process_that_is_killed(tmp_path: Path, in_a_thread: bool) -> None:
    start = "Thread(target=kafka.start)" if in_a_thread else "kafka"
    program = (
        "import multiprocessing, time; from pathlib import Path; from threading import Thread\n"
        "from streams.local_kafka import LocalKafka, free_port\n"
        f"kafka = LocalKafka(Path({str(tmp_path)!r}))\n"
        f"starter = {start}; starter.start()\n"
        + ("starter.join()\n" if in_a_thread else "")
        # A forked child outlives the process, with copies of all that it had open.
        + "multiprocessing.get_context('fork').Process(target=time.sleep, args=(30,)).start()\n"
        "print('started', flush=True); time.sleep(60)\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"started\n"
        assert processes_naming(f"{tmp_path}/log4j2"), "the broker runs while its owner lives"
        owner.kill()
        owner.wait()
        assert eventually(lambda: not processes_naming(f"{tmp_path}/log4j2"))
    finally:
        os.killpg(owner.pid, signal.SIGKILL)
        owner.wait()


def test_a_free_port_is_none_that_a_connection_may_take_before_the_broker_does() -> None:
    for_connections = Path("/proc/sys/net/ipv4/ip_local_port_range")
    if not for_connections.exists():
        pytest.skip(f"only Linux says in {for_connections} which ports connections take")
    first = int(for_connections.read_text().split()[0])
    if first < 32_768:
        pytest.skip(f"this system was told to give connections ports from {first} on")
    chosen = {free_port() for _ in range(50)}
    assert max(chosen) < first
    assert len(chosen) > 1  # Two brokers that start at the same time get two.
    assert all(free_port(but=port) != port for port in chosen)


def test_a_free_port_is_one_that_nobody_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        monkeypatch.setattr("streams.local_kafka._PORTS", range(port, port + 1))
        with pytest.raises(Stop, match=f"No port .* from {port} to {port} is free") as stop:
            free_port()
    assert "Stop what listens" in stop.value.remedy
    assert free_port() == port


def test_a_port_in_use_is_named_with_the_remedy(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(Stop, match=rf"127\.0\.0\.1:{port}") as stop:
            LocalKafka(tmp_path, port=port).start()
    assert "another port" in stop.value.remedy


def test_a_directory_has_one_broker_at_a_time(tmp_path: Path) -> None:
    with LocalKafka(tmp_path) as first:
        with pytest.raises(Stop, match="Another broker runs in") as stop:
            LocalKafka(tmp_path).start()
        assert "another directory" in stop.value.remedy
        create_topic(first.address, "undisturbed")


def test_a_failed_start_shows_the_end_of_the_log_and_leaves_no_process(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "meta.properties").write_text("version=1\nnode.id=7\ncluster.id=x\n")
    kafka = LocalKafka(tmp_path)
    with pytest.raises(Stop, match="Stored node id 7") as stop:
        kafka.start()
    assert str(tmp_path / "broker.log") in stop.value.remedy
    assert kafka.pid is None
    assert eventually(lambda: not processes_naming(f"{tmp_path}/log4j2"))
