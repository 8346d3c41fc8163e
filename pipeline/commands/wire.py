"""What each stage is made of. Every composition is wired here.

Importing comes first and apart, so that several stages of one command can share it; each stage
imports its own only, as those of all take a tenth of a start.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING

from pipeline.commands.definitions import read_definitions
from pipeline.settings import Settings

if TYPE_CHECKING:
    from streams.clients import Clients
    from streams.stage import Stage


class StageName(StrEnum):
    """The stages, in the order in which an event passes them."""

    INTAKE = "intake"
    TALLY = "tally"
    CLICKHOUSE = "clickhouse"
    BILL = "bill"
    STRIPE = "stripe"
    WATCH = "watch"


#: Runs a stage, with what is set and under a name of its own, until it is asked to stop.
Run = Callable[[Settings, str, threading.Event], None]


def wire(stage: StageName) -> Run:
    """Import all that a stage needs. Nothing of it begins before what is returned is called."""
    wirings = {
        StageName.INTAKE: _intake,
        StageName.TALLY: _tally,
        StageName.CLICKHOUSE: _clickhouse,
        StageName.BILL: _bill,
        StageName.STRIPE: _stripe,
        StageName.WATCH: _watch,
    }
    return wirings[stage]()


def _intake() -> Run:
    transact = _transact()
    from schemas.topics import METERED
    from streams.cluster import require_topic
    from streams.confluent import ConfluentClients
    from streams.intake import IntakeStage

    def run(settings: Settings, instance: str, stop: threading.Event) -> None:
        kafka = settings.kafka()
        stage = IntakeStage(read_definitions(settings.config), require_topic(kafka, METERED.name))
        transact(stage, kafka, ConfluentClients(kafka), instance, stop, settings.linger_ms)

    return run


def _tally() -> Run:
    transact = _transact()
    from schemas.topics import METERED, TALLY_STATE
    from streams.cluster import require_topic
    from streams.confluent import ConfluentClients
    from streams.mirrored import MirroredClients
    from streams.read import topic_id
    from streams.stage import member_of
    from streams.tally import TallyStage

    def run(settings: Settings, instance: str, stop: threading.Event) -> None:
        kafka = settings.kafka()
        kafka_clients = ConfluentClients(kafka)
        read_on = partial(kafka_clients.read_to_end, METERED.name)
        stage = TallyStage(require_topic(kafka, METERED.name), read_on)
        directory = settings.state_directory / member_of(stage.name, instance)
        clients = MirroredClients(
            kafka_clients,
            directory,
            TALLY_STATE.name,
            lambda: topic_id(kafka, TALLY_STATE.name),
        )
        transact(stage, kafka, clients, instance, stop, settings.tally_linger_ms)

    return run


def _bill() -> Run:
    transact = _transact()
    from schemas.topics import METERED
    from streams.bill import BillStage
    from streams.cluster import require_topic
    from streams.confluent import ConfluentClients

    def run(settings: Settings, instance: str, stop: threading.Event) -> None:
        kafka = settings.kafka()
        stage = BillStage(read_definitions(settings.config), require_topic(kafka, METERED.name))
        transact(stage, kafka, ConfluentClients(kafka), instance, stop, settings.bill_linger_ms)

    return run


def _transact() -> Callable[[Stage, Mapping[str, str], Clients, str, threading.Event, int], None]:
    """intake, tally and bill share the transactional shell."""
    from streams.leave_out_pandas import leave_out_pandas

    leave_out_pandas()
    from pipeline.compiled import get_ready
    from streams.cluster import require_topic
    from streams.transact import Transactor, tune_process

    get_ready()

    def transact(
        stage: Stage,
        kafka: Mapping[str, str],
        clients: Clients,
        instance: str,
        stop: threading.Event,
        linger_ms: int,
    ) -> None:
        # To a session a topic that this user may not use is only missing.
        for topic in filter(None, (stage.input_topic, stage.state_topic)):
            require_topic(kafka, topic)
        tune_process()
        Transactor(stage, clients, instance=instance, stop=stop, linger_ms=linger_ms).run()

    return transact


def _clickhouse() -> Run:
    """ClickHouse and Stripe are fed by the delivery loop."""
    from schemas.topics import METERED
    from sinks.clickhouse.connect import Connection
    from sinks.clickhouse.write import ClickHouseSink
    from streams.cluster import require_topic
    from streams.confluent import ConfluentClients
    from streams.deliver import Deliverer

    def run(settings: Settings, instance: str, stop: threading.Event) -> None:
        # A member of a group that nobody keeps would wait for ever.
        require_topic(settings.kafka(), METERED.name)
        connection = Connection(settings.clickhouse_url, settings.clickhouse_password)
        try:
            Deliverer(
                StageName.CLICKHOUSE,
                ClickHouseSink(connection),
                ConfluentClients(settings.kafka()),
                instance=instance,
                stop=stop,
                linger_ms=settings.clickhouse_linger_ms,
            ).run()
        finally:
            connection.close()

    return run


def _stripe() -> Run:
    from schemas.topics import DELIVERIES, OUTBOX
    from sinks.stripe.client import calls_per_second, stripe_client
    from sinks.stripe.deliver import StripeSink
    from streams.cluster import require_topic
    from streams.confluent import ConfluentClients
    from streams.deliver import Deliverer
    from streams.forgotten import Answers

    def run(settings: Settings, instance: str, stop: threading.Event) -> None:
        for topic in (OUTBOX, DELIVERIES):
            require_topic(settings.kafka(), topic.name)
        clients = ConfluentClients(settings.kafka())
        client = stripe_client(settings.stripe_api_key, settings.stripe_api_base)
        Deliverer(
            StageName.STRIPE,
            StripeSink(client, calls_per_second=calls_per_second(settings.stripe_api_key)),
            clients,
            instance=instance,
            stop=stop,
            linger_ms=settings.stripe_linger_ms,
            notes_attempts=True,
            answers=Answers(clients, OUTBOX.name, DELIVERIES.name),
        ).run()

    return run


def _watch() -> Run:
    from schemas.topics import FORECASTS, TOTALS
    from streams.cluster import require_topic
    from streams.watch import run_watch

    def run(settings: Settings, _: str, __: threading.Event) -> None:
        # Faust would wait for either for ever.
        for topic in (TOTALS, FORECASTS):
            require_topic(settings.kafka(), topic.name)
        run_watch(settings, read_definitions(settings.config))

    return run
