"""`meterline demo`: the whole path on this machine, with nothing installed but Python."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar
from urllib.parse import quote

import typer
from confluent_kafka import KafkaException
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from pipeline.commands.definitions import read_definitions
from pipeline.commands.observe import observe
from pipeline.commands.play import Play, PlayClock
from pipeline.commands.show_demo import show
from pipeline.commands.supervise import METERLINE, Supervisor
from pipeline.errors import Retry, Stop
from pipeline.generate import DEMO_DEFINITIONS, generate
from pipeline.ingest_file import Line, read_ndjson, unmarked
from pipeline.reconcile import Seen, reconcile, report
from pipeline.settings import Settings, read_settings
from schemas import topics
from sinks.stripe.stand_in import StripeStandIn
from streams.follow import Follower
from streams.local_kafka import LocalKafka
from streams.read import partition_count
from streams.revive import Reviver
from streams.temporary import temporary_directory
from streams.topics import create_topics

STAGES = ("intake", "tally", "clickhouse", "bill", "stripe", "watch")

#: One shard and one partition: the order of a file is the order of the log, for all customers.
_TOPICS = topics.sized(shards=1, event_partitions=1)

_STRIPE_KEY = "rk_live_stand_in"

_AWAY_SECONDS_MAX = 60.0
_PAUSE_SECONDS = 0.5

_Answer = TypeVar("_Answer")


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
    directory: Annotated[
        Path | None, typer.Option(help="Keep Kafka's, ClickHouse's and Stripe's data and all logs.")
    ] = None,
    bootstrap_servers: Annotated[
        str | None,
        typer.Option(help="Use this Kafka, still empty, instead of a local one."),
    ] = None,
) -> None:
    """Start a local Kafka and all stages, play events, and account for every one of them.

    METERLINE_* of the environment count only with --bootstrap-servers. The attribute receivedat of
    an event is when it arrived, else that is now.
    """
    if bootstrap_servers is None:
        _forget_settings()
    console = Console(highlight=False)
    config = config or DEMO_DEFINITIONS
    definitions = read_definitions(config)
    lines = _lines(events, count, seed)
    with _kept_or_temporary(directory) as place:
        if report_file is not None:
            # Asked now, not when all has been played; what an earlier demo wrote stays till then.
            _write(report_file, "a", "")
        seen = _play(lines, config, place, bootstrap_servers, console)
    result = reconcile(seen, definitions)
    if report_file is not None:
        _write(report_file, "w", json.dumps(report(seen, result), indent=1) + "\n")
    show(console, definitions, seen, result)
    if not result.reconciled:
        raise typer.Exit(1)


def _forget_settings() -> None:
    """What the caller's environment says is of another deployment: neither this process nor those
    that it starts may reach for that one's Kafka or Stripe.
    """
    # As settings are read: in capitals or not.
    for name in [name for name in os.environ if name.upper().startswith("METERLINE_")]:
        del os.environ[name]


@contextmanager
def _kept_or_temporary(directory: Path | None) -> Iterator[Path]:
    if directory is None:
        with temporary_directory("demo") as temporary:
            yield Path(temporary)
        return
    try:
        is_empty = not directory.exists() or not any(directory.iterdir())
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Stop(
            f"{directory} cannot be used: {error.strerror}.",
            remedy="Name a new directory, where this user may write.",
        ) from error
    if not is_empty:
        raise Stop(
            f"{directory} is not empty.",
            remedy="Name a new directory: a demo begins with nothing counted.",
        )
    yield directory.absolute()


def _write(report_file: Path, mode: str, text: str) -> None:
    try:
        with report_file.open(mode) as file:
            file.write(text)
    except OSError as error:
        raise Stop(
            f"The report cannot be written to {report_file}: {error.strerror}.",
            remedy="Name a file in a directory that is there, where this user may write.",
        ) from error


@contextmanager
def _broker(
    directory: Path, bootstrap_servers: str | None, console: Console
) -> Iterator[tuple[str, Callable[[], None]]]:
    """The address of a Kafka that comes back if it dies, and what raises if it does not."""
    if bootstrap_servers is not None:
        if partition_count({"bootstrap.servers": bootstrap_servers}, topics.EVENTS.name):
            raise Stop(
                f"The Kafka on {bootstrap_servers} has {topics.EVENTS.name} already.",
                remedy="Give an empty Kafka: a demo begins with nothing counted.",
            )
        yield bootstrap_servers, lambda: None
        return
    with LocalKafka(directory / "kafka", say=console.print) as kafka, Reviver(kafka) as reviver:
        yield kafka.address, reviver.check


def _lines(events: Path | None, count: int, seed: int) -> list[Line]:
    if events is None:
        return list(read_ndjson(generate(count, 50, seed, datetime.now(UTC))))
    try:
        with events.open("rb") as file:
            return list(read_ndjson(unmarked(file)))
    except OSError as error:
        raise Stop(
            f"{events} cannot be read: {error.strerror}.",
            remedy="Give a file with one CloudEvent as JSON a line.",
        ) from error


def _play(
    lines: list[Line],
    config: Path,
    directory: Path,
    bootstrap_servers: str | None,
    console: Console,
) -> Seen:
    clock = PlayClock()
    progress = Progress(
        TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(), console=console
    )
    with (
        _broker(directory, bootstrap_servers, console) as (address, check_broker),
        # What does not say when it arrived arrives now, which may be long after the rest.
        StripeStandIn(_STRIPE_KEY, now_ms=clock.now_ms, refuses_future=False) as stripe,
    ):
        settings = read_settings(
            bootstrap_servers=address,
            config=config.absolute(),
            state_directory=directory / "state",
            clickhouse_url=f"chdb://{quote(str(directory / 'clickhouse'))}",
            stripe_api_key=_STRIPE_KEY,
            stripe_api_base=stripe.url,
        )
        environment = _environment(settings)
        kafka = settings.kafka()
        _answered(lambda: create_topics(kafka, _TOPICS, keep_for_ever=True))
        _migrate(environment)
        console.print(f"Kafka answers on {address}; starting {', '.join(STAGES)}.")
        with (
            Supervisor(STAGES, environment, directory, console.print) as stages,
            _answered(lambda: Follower(kafka)) as follower,
            progress,
        ):
            play = Play(kafka, stages, check_broker, progress)
            play.send(clock.observed(lines), len(lines))
            play.follow(follower, len(lines))
            play.settle()
        with (directory / "stripe.ndjson").open("w") as journal:
            for event in stripe.journal:
                journal.write(json.dumps(asdict(event), default=str) + "\n")
        return _answered(lambda: observe(settings, follower, stripe, len(lines)))


def _answered(ask: Callable[[], _Answer]) -> _Answer:
    """What `ask` returns, which needs Kafka; asks again while a broker that died comes back."""
    deadline = time.monotonic() + _AWAY_SECONDS_MAX
    while True:
        try:
            return ask()
        except (KafkaException, Retry):
            if time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE_SECONDS)


def _environment(settings: Settings) -> dict[str, str]:
    """What the stages' processes are told; the demo is in a hurry to bill."""
    return {
        "METERLINE_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
        "METERLINE_CONFIG": str(settings.config),
        "METERLINE_STATE_DIRECTORY": str(settings.state_directory),
        "METERLINE_CLICKHOUSE_URL": settings.clickhouse_url,
        "METERLINE_STRIPE_API_KEY": settings.stripe_api_key.get_secret_value(),
        "METERLINE_STRIPE_API_BASE": settings.stripe_api_base,
        "METERLINE_BILL_LINGER_MS": "1000",
        "METERLINE_INSTANCE": "demo",
    }


def _migrate(environment: Mapping[str, str]) -> None:
    """In a process of its own: one process at a time may own the embedded engine's directory."""

    outcome = subprocess.run(
        [*METERLINE, "migrate"],
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
