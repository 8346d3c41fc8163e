"""The stages on a real Kafka, one after the other: what an event costs there, and its bytes."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.backlog import decided, drain, held_back, send_all, taken_in
from benchmarks.meters import DEFINITIONS, expected
from benchmarks.race import topic_bytes
from benchmarks.totals import check_totals, published_totals
from benchmarks.under_load import Processes, settings_for
from benchmarks.usage import Usage
from benchmarks.workload import Workload
from schemas import topics
from streams.local_kafka import FULL_SPEED, LocalKafka
from streams.topics import create_topics

#: By intake and tally, and what they read.
_WRITTEN = (topics.EVENTS, topics.METERED, topics.DECISIONS, topics.TOTALS, topics.TALLY_STATE)


def on_kafka(workload: Workload, tally_processes: int) -> dict[str, Any]:
    """Send everything, take it in by one process, count it by `tally_processes`.

    Raises:
        TimeoutError: a stage does not get on.
        RuntimeError: the totals are wrong.
    """
    with (
        tempfile.TemporaryDirectory(prefix="meterline-scaling-") as scratch,
        LocalKafka(Path(scratch, "kafka"), jvm=FULL_SPEED) as broker,
    ):
        kafka = {"bootstrap.servers": broker.address}
        create_topics(kafka, keep_for_ever=True)
        directory = Path(scratch)
        of_broker = Usage([broker.pid or 0])
        settings = settings_for(broker.address, DEFINITIONS, directory)
        with Processes(settings, directory / "processes.log") as processes:
            with held_back(kafka, topics.METERED):
                with held_back(kafka, topics.EVENTS):
                    before = of_broker.cpu_seconds()
                    send_all(broker.address, workload)
                    sending_us = (of_broker.cpu_seconds() - before) / workload.events * 1e6
                    intake = Usage([processes.start("intake", "a-intake")])
                    processes.wait_for_members("intake", 1)
                usages = {"intake": intake, "broker": of_broker}
                took_in = drain(taken_in(kafka), workload.events, usages)
                processes.kill("a-intake")
                names = [f"{number}-tally" for number in range(tally_processes)]
                tally = Usage([processes.start("tally", name) for name in names])
                processes.wait_for_members("tally", tally_processes)
            with tally:
                usages = {"tally": tally, "broker": of_broker}
                counted = drain(decided(kafka, topics.SHARDS), workload.events, usages)
        check_totals(published_totals(kafka), expected(workload))
        return {
            "events": workload.events,
            "customers": workload.customers,
            "heaviest_share": workload.heaviest_share,
            "tally_processes": tally_processes,
            "sending": {"cpu_us": {"broker": sending_us}},
            "intake": asdict(took_in),
            "tally": asdict(counted),
            "tally_memory_bytes": tally.memory_bytes_max,
            "disk_bytes_per_event": {
                topic.name: topic_bytes(broker, topic.name) / workload.events for topic in _WRITTEN
            },
        }
