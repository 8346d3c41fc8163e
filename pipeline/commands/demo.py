"""`meterline demo`: the whole path on this machine, with nothing installed but Python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from pipeline.commands.definitions import read_definitions
from pipeline.commands.show_demo import show
from pipeline.commands.supervise import Supervisor
from pipeline.errors import Stop
from pipeline.generate import DEMO_DEFINITIONS, generate
from pipeline.ingest_file import Line, read_ndjson
from pipeline.reconcile import Seen, reconcile, report
from pipeline.settings import Settings, read_settings
from schemas import topics
from schemas.billing import Delivery, Delta
from schemas.quantity import from_plain
from sinks.clickhouse import read as clickhouse
from sinks.clickhouse.connect import Connection
from sinks.stripe.stand_in import StripeStandIn
from streams.backlog import backlog
from streams.follow import Follower
from streams.local_kafka import LocalKafka
from streams.producer import Producer
from streams.read import partition_count, read_to_end
from streams.topics import create_topics

STAGES = ("intake", "tally", "clickhouse", "bill", "stripe", "watch")

#: What a stage must have confirmed before the next one can be asked.
_READS = {
    "bill": [topics.TOTALS.name],
    "stripe": [topics.OUTBOX.name],
    "clickhouse": [
        topic.name
        for topic in (
            topics.METERED,
            topics.DECISIONS,
            topics.TOTALS,
            topics.ALERTS,
            topics.REJECTED,
            topics.DELIVERIES,
        )
    ],
}

#: One shard and one partition: the order of a file is the order of the log, for all customers.
_SHARDS = 1

_STRIPE_KEY = "rk_live_stand_in"
_STALLED_SECONDS = 120.0


def demo(
    count: Annotated[int, typer.Option(min=1, help="How many events to generate.")] = 20_000,
    seed: Annotated[int, typer.Option(help="Of the generator.")] = 1,
    events: Annotated[
        Path | None, typer.Option(help="Play this file of CloudEvents (NDJSON) instead.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="The definitions, meterline.yaml.")] = None,
    report_file: Annotated[
        Path | None, typer.Option("--report", help="Write what came of it as JSON.")
    ] = None,
) -> None:
    """Start a local Kafka and all stages, play events, and account for every one of them."""
    console = Console(highlight=False)
    config = config or DEMO_DEFINITIONS
    definitions = read_definitions(config)
    lines = _lines(events, count, seed)
    with tempfile.TemporaryDirectory(prefix="meterline-demo-") as directory:
        seen = _play(lines, config, Path(directory), console)
    result = reconcile(seen, definitions)
    if report_file is not None:
        report_file.write_text(json.dumps(report(seen, result), indent=1) + "\n")
    show(console, definitions, seen, result)
    if not result.reconciled:
        raise typer.Exit(1)


def _lines(events: Path | None, count: int, seed: int) -> list[Line]:
    if events is None:
        return list(read_ndjson(generate(count, 50, seed, datetime.now(UTC))))
    try:
        with events.open("rb") as file:
            return list(read_ndjson(file))
    except OSError as error:
        raise Stop(
            f"{events} cannot be read: {error.strerror}.",
            remedy="Give a file with one CloudEvent as JSON a line.",
        ) from error


def _play(lines: list[Line], config: Path, directory: Path, console: Console) -> Seen:
    clock = _PlayClock()
    progress = Progress(
        TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(), console=console
    )
    with (
        LocalKafka(directory / "kafka", say=console.print) as kafka,
        StripeStandIn(_STRIPE_KEY, now_ms=clock.now_ms) as stripe,
    ):
        settings = read_settings(
            bootstrap_servers=kafka.address,
            config=config.absolute(),
            clickhouse_url=f"chdb://{directory / 'clickhouse'}",
            stripe_api_key=_STRIPE_KEY,
            stripe_api_base=stripe.url,
        )
        environment = _environment(settings)
        create_topics(settings.kafka(), topics.with_shards(_SHARDS), keep_for_ever=True)
        _migrate(environment)
        console.print(f"Kafka answers on {kafka.address}; starting {', '.join(STAGES)}.")
        with (
            Supervisor(STAGES, environment, directory, console.print) as stages,
            Follower(settings.kafka()) as follower,
            progress,
        ):
            play = _Play(settings, stages, kafka, progress)
            play.send(clock.observed(lines), len(lines))
            play.follow(follower, len(lines))
            play.settle()
        return _seen(settings, follower, stripe, len(lines))


class _PlayClock:
    """The newest arrival so far: an old trace is played as if it were then."""

    def __init__(self) -> None:
        self._newest_ms = 0

    def now_ms(self) -> int:
        """Milliseconds since 1970; the real time before anything was played."""
        return self._newest_ms or time.time_ns() // 1_000_000

    def observed(self, lines: Iterable[Line]) -> Iterator[Line]:
        """The same lines; the clock follows them."""
        for line in lines:
            arrival_ms = line.timestamp_ms or time.time_ns() // 1_000_000
            self._newest_ms = max(self._newest_ms, arrival_ms)
            yield line


class _Play:
    """Sends, then waits until every stage has done its part; restarts what dies meanwhile."""

    def __init__(
        self, settings: Settings, stages: Supervisor, kafka: LocalKafka, progress: Progress
    ) -> None:
        self._kafka = settings.kafka()
        self._stages = stages
        self._broker = kafka
        self._progress = progress

    def send(self, lines: Iterable[Line], count: int) -> None:
        """Publish every line as it stands."""
        task = self._progress.add_task("sent to usage.events", total=count)
        with Producer(self._kafka["bootstrap.servers"]) as producer:
            for number, line in enumerate(lines):
                producer.send_raw(line.value, key=line.key, timestamp_ms=line.timestamp_ms)
                if number % 500 == 0:
                    self._look_after(task, number)
            producer.flush()
        self._look_after(task, count)

    def follow(self, follower: Follower, count: int) -> None:
        """Wait until each event has an outcome."""
        task = self._progress.add_task("decided by intake and tally", total=count)
        moved_at, before = time.monotonic(), 0
        while (done := follower.read()) < count:
            self._look_after(task, done)
            if done > before:
                moved_at, before = time.monotonic(), done
            self._require_progress(moved_at, f"{done} of {count} events are decided")
        self._look_after(task, done)
        follower.read_to_end()

    def settle(self) -> None:
        """Wait until the sinks have confirmed everything, in the order in which they depend."""
        task = self._progress.add_task("billed, delivered, stored", total=len(_READS))
        for number, (stage, reads) in enumerate(_READS.items()):
            moved_at, before = time.monotonic(), -1
            while left := backlog(self._kafka, stage, reads):
                self._look_after(task, number)
                if left != before:
                    moved_at, before = time.monotonic(), left
                self._require_progress(moved_at, f"{stage} has {left} records to go")
                time.sleep(0.2)
        self._look_after(task, len(_READS))

    def _look_after(self, task: TaskID, done: int) -> None:
        self._progress.update(task, completed=done)
        self._broker.revive()
        self._stages.check()

    def _require_progress(self, moved_at: float, state: str) -> None:
        if time.monotonic() - moved_at > _STALLED_SECONDS:
            raise Stop(
                f"Nothing moved for {_STALLED_SECONDS:.0f} s: {state}.",
                remedy="Run `meterline doctor`, and try again on a machine that is less busy.",
            )


def _seen(settings: Settings, follower: Follower, stripe: StripeStandIn, sent: int) -> Seen:
    """What each side has in the end; the stages have stopped, so ClickHouse may be opened here."""
    kafka = settings.kafka()
    connection = Connection(settings.clickhouse_url, settings.clickhouse_password)
    try:
        with connection.client() as client:
            ledger = clickhouse.ledger(client)
            totals = clickhouse.totals(client)
            alerts = clickhouse.alerts(client)
    finally:
        connection.close()
    deliveries = [
        Delivery.model_validate_json(value) for value in _values(kafka, topics.DELIVERIES.name)
    ]
    return Seen(
        sent=sent,
        kafka_ledger=follower.ledger,
        clickhouse_ledger=ledger,
        kafka_totals=list(follower.totals.values()),
        clickhouse_totals=totals,
        kafka_alerts=follower.alerts,
        clickhouse_alerts=alerts,
        stripe={event.identifier: from_plain(str(event.value)) for event in stripe.journal},
        quarantine={
            delivery.identifier: from_plain(delivery.value)
            for delivery in deliveries
            if delivery.outcome != "delivered"
        },
        deltas=[Delta.model_validate_json(value) for value in _values(kafka, topics.OUTBOX.name)],
    )


def _values(kafka: Mapping[str, str], topic: str) -> Iterator[bytes]:
    for partition in range(partition_count(kafka, topic)):
        for record in read_to_end(kafka, topic, partition):
            yield record.value or b""


def _environment(settings: Settings) -> dict[str, str]:
    """What the stages' processes are told; the demo is in a hurry to bill."""
    return {
        "METERLINE_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
        "METERLINE_CONFIG": str(settings.config),
        "METERLINE_CLICKHOUSE_URL": settings.clickhouse_url,
        "METERLINE_STRIPE_API_KEY": settings.stripe_api_key.get_secret_value(),
        "METERLINE_STRIPE_API_BASE": settings.stripe_api_base,
        "METERLINE_BILL_LINGER_MS": "1000",
        "METERLINE_INSTANCE": "demo",
    }


def _migrate(environment: Mapping[str, str]) -> None:
    """In a process of its own: one process at a time may own the embedded engine's directory."""

    outcome = subprocess.run(
        [sys.executable, "-m", "meterline", "migrate"],
        env=dict(os.environ) | dict(environment),
        capture_output=True,
        text=True,
        check=False,
    )
    if outcome.returncode:
        raise Stop(
            f"ClickHouse could not be prepared: {outcome.stderr.strip()}",
            remedy="Run `meterline doctor`.",
        )
