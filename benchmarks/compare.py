"""Meterline and its peers on the same work: one table, measured in one run.

    uv run python -m benchmarks.compare [--events 3000000] [--only NAME ...]

Starts one Kafka and warms it up, fills `usage.events`, and lets each contender, alone, read it
from the first to the last event and count each (source, id) once, per customer, event type and
month. A contender is done when all its totals are exactly those that the generator knows. CPU time
is that of all its processes, start-up and warm-up included, without the broker's. Meterline and the
roofline run once more at the end: what happened to the machine meanwhile shows in the difference,
and ratios are to the slower run. What is missing on this machine, or fails, has its reason in the
table. Run it on a machine with nothing else to do.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace

from confluent_kafka import ConsumerGroupState
from confluent_kafka.admin import AdminClient
from rich.console import Console

from benchmarks.command import run
from benchmarks.compare_report import Comparison, chart, document, markdown, table
from benchmarks.contenders import CONSUME, CONTENDERS, METERLINE, METERLINE_SHARDS, ROOT, STAGES
from benchmarks.options import duration_or_none, events_number, file
from benchmarks.race import Result, run_alone, topic_bytes
from benchmarks.stages import machine
from benchmarks.warm import WARM_UP_SECONDS, warm_up
from benchmarks.workload import Workload
from schemas import topics
from schemas.topics import Topic
from streams.local_kafka import FULL_SPEED, LocalKafka
from streams.producer import Producer
from streams.stage import group_of
from streams.topics import create_topics

_REPORTS = ROOT / "docs" / "benchmarks"
_REPORT_COLUMNS = 140
_ANSWER_SECONDS_MAX = 15.0


def compare(
    events: int, names: Sequence[str], say: Console, warm_up_seconds: float = WARM_UP_SECONDS
) -> Comparison:
    """Run the contenders with these names, one after the other, on one broker."""
    load = os.getloadavg()
    order = [CONTENDERS[name] for name in CONTENDERS if name in names]
    order += [contender for contender in (METERLINE, CONSUME) if contender in order]
    results: list[Result] = []
    with LocalKafka(jvm=FULL_SPEED, say=say.print) as broker:
        catalogue = topics.sized(shards=METERLINE_SHARDS)
        create_topics({"bootstrap.servers": broker.address}, catalogue, keep_for_ever=True)
        say.print(f"{warm_up(broker.address, warm_up_seconds)} transactions to warm up the broker")
        for number, contender in enumerate(order):
            if contender is METERLINE and METERLINE in order[:number]:
                _forget_counting(broker, catalogue)
            workload = Workload(min(events, contender.events_max or events))
            input_topic = _filled(broker, workload, events, say)
            say.print(f"{contender.name}…")
            result = run_alone(contender, broker, workload, input_topic, workload.expected())
            say.print(f"  {result.problem or f'{result.per_cpu_second:,.0f} per CPU second'}")
            results.append(result)
    return Comparison(
        workload=Workload(events),
        results=results,
        contenders=order,
        machine=machine() | _tools(),
        load_before=load,
        load_after=os.getloadavg(),
    )


def _filled(broker: LocalKafka, workload: Workload, events: int, say: Console) -> str:
    """The topic with the events of `workload`, filled when it is first asked for."""
    name = topics.EVENTS.name
    if workload.events < events:
        name = f"{name}.first_{workload.events}"
        create_topics(
            {"bootstrap.servers": broker.address},
            [replace(topics.EVENTS, name=name)],
            keep_for_ever=True,
        )
    if not topic_bytes(broker, name):
        say.print(f"Sending {workload.events:,} events…")
        with Producer(broker.address, topic=name, linger_ms=50) as producer:
            for batch in workload.batches():
                for customer, event, arrival_ms in batch:
                    producer.send_raw(event, key=customer, timestamp_ms=arrival_ms, headers=[])
    return name


def _forget_counting(broker: LocalKafka, catalogue: Sequence[Topic]) -> None:
    """Empties every topic of ours but that of the events, and removes the positions in it."""
    kafka = {"bootstrap.servers": broker.address}
    admin = AdminClient({**kafka})
    ours = {topic.name for topic in catalogue} - {topics.EVENTS.name}
    # A member that is to come back under its name stays one until its session is over.
    while (states := _groups(admin)) and set(states.values()) != {ConsumerGroupState.EMPTY}:
        time.sleep(0.1)
    for deleted in admin.delete_consumer_groups([*states]).values() if states else ():
        deleted.result()
    for deleted in admin.delete_topics([*ours]).values():
        deleted.result()
    while ours & admin.list_topics(timeout=_ANSWER_SECONDS_MAX).topics.keys():
        time.sleep(0.1)
    create_topics(kafka, catalogue, keep_for_ever=True)


def _groups(admin: AdminClient) -> dict[str, ConsumerGroupState]:
    """Those of ours that there are, each with its state."""
    ours = {group_of(stage) for stage in STAGES}
    known = admin.list_consumer_groups().result().valid
    return {group.group_id: group.state for group in known if group.group_id in ours}


def _tools() -> dict[str, str]:
    java = shutil.which("java")
    if java is None:
        return {}
    told = subprocess.run([java, "-version"], capture_output=True, text=True)
    return {"java of the peers": " ".join(told.stderr.splitlines()[1:2])}


def main() -> int:
    """Measures, prints and saves; 1 if a contender failed."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument(
        "--events", type=events_number, default=3_000_000, help="default: 3,000,000"
    )
    options.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    options.add_argument(
        "--warm-up",
        type=duration_or_none,
        default=WARM_UP_SECONDS,
        metavar="SECONDS",
        help="of the broker, default: %(default)s",
    )
    options.add_argument(
        "--json", type=file, default=str(_REPORTS / "compare.json"), metavar="FILE"
    )
    options.add_argument(
        "--chart", type=file, default=str(_REPORTS / "compare.svg"), metavar="FILE"
    )
    options.add_argument(
        "--report", type=file, default=str(_REPORTS / "compare.md"), metavar="FILE"
    )
    chosen = options.parse_args()
    say = Console(stderr=True, highlight=False)
    compared = compare(chosen.events, chosen.only, say, chosen.warm_up)
    screen = Console(highlight=False)
    if not screen.is_terminal:
        screen.width = _REPORT_COLUMNS
    screen.print(table(compared))
    for result in compared.results:
        if result.problem:
            screen.print(f"{result.name} {result.problem}", markup=False)
    texts = (
        (chosen.json, document(compared)),
        (chosen.report, markdown(compared, chart=chosen.chart.name)),
    )
    # First, as it takes longest: who ends this meanwhile keeps a table and JSON that agree.
    chart(compared, chosen.chart)
    for path, text in texts:
        path.write_text(text)
    return int(any(result.problem.startswith("failed") for result in compared.results))


if __name__ == "__main__":
    run(main)
