"""The comparison measures who counts right, and says what is wrong with who does not."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest

from benchmarks import compare
from benchmarks.compare_report import Comparison, document, markdown
from benchmarks.contender import Command, Contender, LeftOut, Place
from benchmarks.contenders import (
    CONTENDERS,
    KAFKA_STREAMS,
    METERLINE,
    METERLINE_LINGER_MS,
    PEERS,
)
from benchmarks.race import Result, run_alone
from benchmarks.workload import Workload
from schemas import topics
from streams.local_kafka import LocalKafka
from streams.producer import Producer
from streams.topics import create_topics
from tests.benchmarks.running import ROOT, run_benchmark

WORKLOAD = Workload(3_000)

#: Reads everything, and counts each event as often as it came.
NAIVE = """
import json, sys
from collections import defaultdict
from confluent_kafka import Consumer, Producer
address, source, target = sys.argv[1:]
kafka = {"bootstrap.servers": address}
consumer = Consumer(kafka | {"group.id": "naive", "auto.offset.reset": "earliest"})
producer = Producer(kafka)
consumer.subscribe([source])
totals = defaultdict(lambda: [0, 0])
while True:
    for message in consumer.consume(1_000, 0.1):
        event = json.loads(message.value())
        customer, kind = event["subject"], event["type"]
        total = totals[customer, kind]
        total[0] += event["data"]["value"]
        total[1] += 1
        said = {"customer": customer, "type": kind, "value": total[0], "events": total[1]}
        producer.produce(target, json.dumps(said), customer)
    producer.flush()
"""


def program(name: str, text: str) -> Contender:
    """A contender that writes its totals as the peers do, to a topic of its own."""
    output_topic = f"benchmark.{name}"

    def start(place: Place) -> Sequence[Command]:
        arguments = [place.address, place.input_topic, output_topic]
        return [Command([sys.executable, "-c", text, *arguments])]

    return replace(KAFKA_STREAMS, name=name, prepare=lambda: start, output_topic=output_topic)


@pytest.fixture(scope="module")
def filled() -> Iterator[LocalKafka]:
    """One broker with the events, on which contenders run one after the other, as they do."""
    with LocalKafka() as broker:
        create_topics({"bootstrap.servers": broker.address}, keep_for_ever=True)
        with Producer(broker.address) as producer:
            for batch in WORKLOAD.batches():
                for customer, event, arrival_ms in batch:
                    producer.send_raw(event, key=customer, timestamp_ms=arrival_ms, headers=[])
        yield broker


def run(contender: Contender, broker: LocalKafka) -> Result:
    return run_alone(contender, broker, WORKLOAD, topics.EVENTS.name, WORKLOAD.expected())


def test_it_measures_meterline_and_the_roofline_on_one_topic(tmp_path: Path) -> None:
    files = {name: tmp_path / f"compare.{name}" for name in ("json", "svg", "md")}
    ran = run_benchmark(
        *("compare", "--events", "5000", "--warm-up", "1"),
        *("--only", "meterline", "consume", "--json", str(files["json"])),
        *("--chart", str(files["svg"]), "--report", str(files["md"])),
    )
    warmed_up = re.search(r"(\d+) transactions to warm up", ran.stderr)
    assert warmed_up is not None
    assert int(warmed_up[1]) >= 1
    measured = json.loads(files["json"].read_text())
    before, ours, ours_after, after = measured["results"]
    assert [before["name"], ours["name"]] == ["consume + decode", "Meterline"]
    assert [ours_after["name"], after["name"]] == ["Meterline", "consume + decode"]
    assert ours_after["problem"] == after["problem"] == ""
    assert ours_after["changelog_bytes"] > 16 * 4_900  # It has counted all once more.
    assert ours["totals"] == len(Workload(5_000).expected())
    assert ours["events"] == 5_000
    assert ours["per_cpu_second"] == ours["events"] / ours["cpu_seconds"]
    assert ours["per_wall_second"] == ours["events"] / ours["wall_seconds"]
    assert ours["per_cpu_second_running"] == (
        ours["events"] / (ours["cpu_seconds"] - ours["start_cpu_seconds"])
    )
    assert 0 < ours["start_cpu_seconds"] < ours["cpu_seconds"]
    slower = min(ours["per_cpu_second"], ours_after["per_cpu_second"])
    assert before["ratios"]["meterline_per_cpu_second"] == slower / before["per_cpu_second"]
    assert ours["ratios"] == ours_after["ratios"] == {}
    assert ours["memory_bytes_max"] > 50_000_000
    # Of each event at least its identity is kept, both on disk and in Kafka.
    assert ours["disk_bytes"] > 16 * 4_900
    assert ours["changelog_bytes"] > 16 * 4_900
    assert measured["machine"]["kafka"].startswith("Apache Kafka 4")
    assert "Meterline" in ran.stdout
    assert "| Meterline |" in files["md"].read_text()
    assert "Meterline" in files["svg"].read_text()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["kafka-streams", "flink-sql", "quix-streams", "faust"])
def test_each_peer_counts_right(name: str, filled: LocalKafka) -> None:
    result = run(CONTENDERS[name], filled)
    if result.problem.startswith("left out"):
        pytest.skip(result.problem)
    assert result.problem == ""
    assert result.totals == len(WORKLOAD.expected())
    assert result.cpu_seconds > 0
    if name != "flink-sql":  # Its state is in checkpoints on disk alone.
        assert result.changelog_bytes > 8 * WORKLOAD.events


def test_who_counts_duplicates_fails_and_hears_of_which_total(filled: LocalKafka) -> None:
    problem = run(program("naive", NAIVE), filled).problem
    assert problem.startswith("failed: more was counted than came")
    assert ", for ('cus_" in problem


def test_who_ends_too_early_fails_and_its_last_words_are_told(filled: LocalKafka) -> None:
    failing = program("failing", "import sys; print('no such setting'); sys.exit(3)")
    result = run(failing, filled)
    assert result.problem == "failed: a process ended with 3\nno such setting"
    assert result.per_cpu_second == 0


def test_who_stands_still_fails_and_it_is_told_how_far_it_came(
    filled: LocalKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.race._STALL_SECONDS_MAX", 1.0)
    problem = run(program("idle", "import time; time.sleep(100)"), filled).problem
    assert problem.startswith("failed: nothing new for 1 s; 0 of 2,9")


def test_who_cannot_run_here_is_left_out_with_the_reason(tmp_path: Path) -> None:
    def prepare() -> None:
        raise LeftOut("mvn is not installed")

    contender = replace(KAFKA_STREAMS, prepare=prepare)  # type: ignore[arg-type]
    result = run(contender, LocalKafka(tmp_path))
    assert result.problem == "left out: mvn is not installed"


def test_a_python_that_was_chosen_for_meterline_is_not_forced_upon_peers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "uv"
    tool.write_text('#!/bin/sh\necho "chosen: ${UV_PYTHON-nothing}"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("UV_PYTHON", "3.13")
    place = Place("127.0.0.1:1", "events", 1, tmp_path)
    place.state.mkdir()
    [command] = CONTENDERS["faust"].prepare()(place)
    assert command.line[0] == "chosen: nothing"


@pytest.mark.skipif(shutil.which("mvn") is None, reason="mvn is not installed")
def test_what_cannot_be_built_is_left_out_with_the_reason_of_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = tmp_path / "kafka_streams"
    sources.mkdir()
    (sources / "pom.xml").write_text("<project>")
    monkeypatch.setattr("benchmarks.contenders.PEERS", tmp_path)
    monkeypatch.setattr("benchmarks.contenders.cache_directory", lambda: tmp_path / "cache")
    problem = run(KAFKA_STREAMS, LocalKafka(tmp_path)).problem
    assert problem.startswith("left out: ")
    assert "mvn" in problem
    assert "pom.xml" in problem


@pytest.fixture
def compared() -> Comparison:
    results = [
        Result("Meterline", 1_000, totals=9, cpu_seconds=2, wall_seconds=1, start_cpu_seconds=1),
        Result(
            "Kafka Streams", 1_000, totals=9, cpu_seconds=12, wall_seconds=5, start_cpu_seconds=2
        ),
        Result("Faust", 100, problem="failed: a process ended with 1\nlast words"),
    ]
    contenders = [METERLINE, KAFKA_STREAMS, CONTENDERS["faust"]]
    idle = (0.1, 0.2, 0.3)
    return Comparison(Workload(1_000), results, contenders, {"machine": "2 x fast"}, idle, idle)


def test_who_ends_while_the_chart_is_drawn_finds_the_figures_as_they_were(
    compared: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    files = [tmp_path / f"compare.{name}" for name in ("json", "svg", "md")]
    places = zip(("--json", "--chart", "--report"), map(str, files), strict=True)
    monkeypatch.setattr("sys.argv", ["compare", *chain(*places)])
    monkeypatch.setattr(compare, "compare", lambda *_: compared)
    monkeypatch.setattr(compare, "chart", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare.main()
    assert not any(file.exists() for file in files)


def test_the_report_has_ratios_reasons_settings_and_machine(compared: Comparison) -> None:
    report = markdown(compared, chart="compare.svg")
    assert "| Kafka Streams | 83.3 | 6 x | 100 | 10 x | 200 | 5 x |" in report
    assert "| Faust, first 100 | failed |" in report
    assert "last words" in report
    assert "kafka-streams 4." in report
    assert "![Events per CPU second](compare.svg)" in report
    assert "2 x fast" in report
    assert "0.10 0.20 0.30" in report


def test_ratios_are_to_the_slower_of_meterlines_two_runs(compared: Comparison) -> None:
    again = Result("Meterline", 1_000, totals=9, cpu_seconds=3, wall_seconds=0.5)
    twice = replace(compared, results=[*compared.results, again])
    report = markdown(twice, chart="compare.svg")
    assert "| Kafka Streams | 83.3 | 4 x | 100 | 3.33 x | 200 | 5 x |" in report
    assert "| Meterline, again | 333 |  | 333 |  | 2 k |  |" in report


def test_files_that_the_report_points_to_are_there() -> None:
    for contender in CONTENDERS.values():
        assert contender.versions
        for file in contender.settings:
            assert (ROOT / file).is_file()


def test_peers_in_python_wait_as_long_for_a_batch_to_fill_as_meterline() -> None:
    quix = (PEERS / "quix_streams.py").read_text()
    faust = (PEERS / "faust_app.py").read_text()
    assert f'"linger.ms": {METERLINE_LINGER_MS},' in quix
    assert f'"producer_linger": {METERLINE_LINGER_MS / 1_000},' in faust


def test_the_document_has_ratios_only_for_who_has_a_result(compared: Comparison) -> None:
    results = json.loads(document(compared))["results"]
    assert [one["ratios"] for one in results] == [
        {},
        {
            "meterline_per_cpu_second": 6.0,
            "meterline_per_cpu_second_running": 10.0,
            "meterline_per_wall_second": 5.0,
        },
        {},
    ]
