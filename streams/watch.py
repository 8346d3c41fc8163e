"""The watch: a Faust app that reads usage.totals and publishes forecasts. Advisory.

What it promises, and what not:

- Each forecast once per (customer, meter, period, threshold), also over restarts and rebalances:
  usage.forecasts is its own memory, read back shard by shard after each assignment of partitions. A
  process that was paused and lost its partitions may publish one a second time; readers go by the
  key.
- At least once: a total is acknowledged when its forecasts are on the broker.
- Faust's consumer reads uncommitted records (only its own `exactly_once` mode changes that), so a
  forecast may rest on a total whose transaction is aborted. Its events are then counted again, to
  the same total. For this reason, too, nothing that must be exact may be built here.
- No total, alert or bill depends on it; it may be down for as long as usage.totals is kept.

A first start reads usage.totals from the beginning. What cannot be read stops it.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import ssl
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Any

import faust
from aiokafka.errors import KafkaError as AiokafkaError  # type: ignore[import-untyped]
from confluent_kafka import KafkaException
from pydantic import ValidationError

from pipeline.errors import MeterlineError, Retry, Stop
from pipeline.forecast import Forecaster
from pipeline.open_frame import open_frame
from pipeline.record import Record
from pipeline.settings import Settings
from schemas.definitions import Definitions
from schemas.forecast import Forecast
from schemas.topics import FORECASTS, LARGE_RECORDS, TOTALS
from streams.client_log import SeldomRepeated
from streams.read import read_to_end
from streams.stage import SESSION_TIMEOUT_MS, group_of
from streams.temporary import temporary_directory

log = logging.getLogger(__name__)

#: Faust tries for ever. A group without a dead member begins after its session time-out.
_START_SECONDS_MAX = 60.0


def run_watch(settings: Settings, definitions: Definitions) -> None:
    """Runs until SIGTERM or SIGINT; call it on the main thread.

    Raises:
        Retry: Kafka does not answer, or denies a right.
        Stop: a record of usage.totals or usage.forecasts cannot be read, or there is no room for
            temporary files.
    """
    for noisy in ("faust", "mode", "aiokafka"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    told = logging.StreamHandler()
    told.addFilter(SeldomRepeated())
    logging.basicConfig(format="%(message)s", handlers=[told])
    # Faust wants a directory, though nothing is kept in it.
    with temporary_directory("watch") as scratch:
        asyncio.run(_serve(settings, definitions, Path(scratch)))


async def _serve(settings: Settings, definitions: Definitions, scratch: Path) -> None:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    app = _app(settings, scratch)
    watch = Watch(app, settings.kafka(), definitions, stopping)
    try:
        # Started directly: Faust's own worker would set up logging, print a banner and, on some
        # ways, open a port to all the world.
        if await _unless(stopping, app.start(), _START_SECONDS_MAX):
            log.info("the watch is running")
            await _unless(stopping, app.wait_until_stopped())
    except AiokafkaError as error:
        watch.failure = error
    finally:
        await app.stop()
    failure = watch.failure or app.crash_reason
    if failure is not None:
        raise _named(failure) from failure
    log.info("the watch has stopped")


async def _unless(
    stopping: asyncio.Event, work: Awaitable[object], seconds_max: float | None = None
) -> bool:
    """Do `work` to its end, but give it up once `stopping` is set; whether it ended.

    Raises:
        Retry: it takes too long.
    """
    working = asyncio.ensure_future(work)
    stopped = asyncio.ensure_future(stopping.wait())
    done, given_up = await asyncio.wait(
        {working, stopped}, timeout=seconds_max, return_when=asyncio.FIRST_COMPLETED
    )
    for task in given_up:
        task.cancel()
    if not done:
        raise Retry(
            f"Kafka does not let the watch begin: it did not for {seconds_max:.0f} s.",
            remedy="Check METERLINE_BOOTSTRAP_SERVERS, that the broker runs, and that the user has "
            "the rights of docs/operating.md.",
        )
    if working in done:
        await working
    return working in done


class Watch:
    """The agent and its memory, by shard. `failure` is why it had to stop, if it had to."""

    def __init__(
        self,
        app: faust.App,
        kafka: Mapping[str, str],
        definitions: Definitions,
        stopping: asyncio.Event,
    ) -> None:
        self.failure: BaseException | None = None
        self._kafka = kafka
        self._definitions = definitions
        self._stopping = stopping
        self._forecasters: dict[int, Forecaster] = {}
        self._forecasts = _raw_topic(app, FORECASTS.name)
        app.agent(_raw_topic(app, TOTALS.name))(self.project)
        app.on_partitions_assigned.connect(self._on_assigned, weak=False)

    async def project(self, totals: Any) -> None:
        """The agent: totals in, forecasts out, one frame at a time."""
        # Acknowledged by hand: Faust would acknowledge a frame even if it failed.
        frames = totals.noack()
        async for event in frames.events():
            try:
                await self._handle(event.message)
            except Exception as error:
                # Faust would log it and go on with the next frame.
                self.failure = error
                self._stopping.set()
                return
            await frames.ack(event)

    async def _handle(self, message: Any) -> None:
        shard = message.partition
        if shard not in self._forecasters:
            announced = await asyncio.to_thread(read_forecasts, self._kafka, shard)
            self._forecasters[shard] = Forecaster(announced)
        frame = open_frame(
            Record(TOTALS.name, shard, message.offset, 0, message.key, message.value)
        )
        forecasts = self._forecasters[shard].step(self._definitions, frame.parts[0])
        await self._publish(shard, forecasts)

    async def _publish(self, shard: int, forecasts: list[Forecast]) -> None:
        """To the partition of the same number: usage.forecasts is co-partitioned."""
        sent = [
            await self._forecasts.send(
                key=forecast.customer.encode(),
                value=forecast.model_dump_json().encode(),
                partition=shard,
            )
            for forecast in forecasts
        ]
        await asyncio.gather(*sent)

    async def _on_assigned(self, *_: Any, **__: Any) -> None:
        # Another process may have published meanwhile: read back anew.
        self._forecasters = {}


def read_forecasts(kafka: Mapping[str, str], shard: int) -> list[Forecast]:
    """A shard's forecasts on usage.forecasts. `kafka` is a librdkafka configuration.

    Raises:
        KafkaException: Kafka does not answer.
        Stop: a record is no forecast.
    """
    return [_forecast(record) for record in read_to_end(kafka, FORECASTS.name, shard)]


def _forecast(record: Record) -> Forecast:
    try:
        return Forecast.model_validate_json(record.value or b"")
    except ValidationError as error:
        raise Stop(
            f"{record.topic}-{record.partition} at offset {record.offset} is no forecast: {error}.",
            remedy="Find what else writes to this topic, or upgrade this program.",
        ) from error


def _named(failure: BaseException) -> MeterlineError:
    if isinstance(failure, MeterlineError):
        return failure
    if isinstance(failure, AiokafkaError | KafkaException):
        return Retry(
            f"Kafka does not answer: {failure}.",
            remedy="Check METERLINE_BOOTSTRAP_SERVERS and that the broker runs.",
        )
    return Stop(f"The watch failed: {failure!r}.", remedy="Report this as a fault in Meterline.")


def _app(settings: Settings, scratch: Path) -> faust.App:
    return faust.App(
        group_of("watch"),
        # The aiokafka driver: Faust's confluent driver never gets an assignment.
        broker=[f"kafka://{server.strip()}" for server in settings.bootstrap_servers.split(",")],
        broker_credentials=credentials(settings),
        broker_session_timeout=SESSION_TIMEOUT_MS / 1000,
        broker_heartbeat_interval=SESSION_TIMEOUT_MS / 4000,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=int(LARGE_RECORDS["max.message.bytes"]),
        producer_acks=-1,
        # The topics are ours to create, all of them: see schemas/topics.py.
        topic_allow_declare=False,
        topic_disable_leader=True,
        stream_wait_empty=False,
        web_enabled=False,
        autodiscover=False,
        datadir=scratch,
    )


def _raw_topic(app: faust.App, name: str) -> Any:
    return app.topic(name, key_serializer="raw", value_serializer="raw")


def credentials(settings: Settings) -> faust.SASLCredentials | faust.SSLCredentials | None:
    """What `Settings.kafka()` says to librdkafka, said to Faust."""
    encrypted = settings.security_protocol.endswith("SSL")
    context = (
        ssl.create_default_context(cafile=settings.ssl_ca_location or None) if encrypted else None
    )
    if settings.security_protocol.startswith("SASL"):
        return faust.SASLCredentials(
            username=settings.sasl_username,
            password=settings.sasl_password.get_secret_value(),
            mechanism=settings.sasl_mechanism,
            ssl_context=context,
        )
    return faust.SSLCredentials(context=context) if encrypted else None
