"""`meterline run STAGE`: one process of one stage. Every composition is wired here."""

from __future__ import annotations

import os
import signal
import sys
import threading
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.definitions import read_definitions
from pipeline.settings import Settings, read_settings


class StageName(StrEnum):
    """The stages, in the order in which an event passes them."""

    INTAKE = "intake"
    TALLY = "tally"
    CLICKHOUSE = "clickhouse"
    BILL = "bill"
    STRIPE = "stripe"
    WATCH = "watch"


def run(
    stage: Annotated[StageName, typer.Argument(help="Which stage to run.")],
    config: Annotated[Path | None, typer.Option(help="The definitions, meterline.yaml.")] = None,
    instance: Annotated[
        str | None, typer.Option(help="Names this process; the same again after a restart.")
    ] = None,
) -> None:
    """Run one stage until Ctrl-C or SIGTERM. Run it several times to share its partitions."""
    settings = read_settings(config=config, instance=instance)
    if settings.stop_with_stdin:
        threading.Thread(target=_stop_with_stdin, daemon=True).start()
    if stage is StageName.WATCH:
        from streams.watch import run_watch

        # Faust serves the signals itself.
        run_watch(settings, read_definitions(settings.config))
        return
    from streams.instance import claim_instance

    stop = threading.Event()
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda *_: stop.set())
    with claim_instance(stage, settings.instance) as name:
        if stage in (StageName.CLICKHOUSE, StageName.STRIPE):
            _deliver(stage, settings, name, stop)
        else:
            _transact(stage, settings, name, stop)


def _stop_with_stdin() -> None:
    # Unbuffered: a thread that waits inside a buffered reader would abort the interpreter's end.
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _transact(stage: StageName, settings: Settings, instance: str, stop: threading.Event) -> None:
    """intake, tally and bill share the transactional shell."""
    from streams.leave_out_pandas import leave_out_pandas

    leave_out_pandas()
    from schemas import topics
    from streams.clients import Clients
    from streams.confluent import ConfluentClients
    from streams.read import partition_count, topic_id
    from streams.stage import Stage, member_of
    from streams.transact import Transactor, tune_process

    kafka = settings.kafka()
    linger_ms = settings.linger_ms
    clients: Clients = ConfluentClients(kafka)
    wired: Stage
    shards = partition_count(kafka, topics.METERED.name)
    # Each stage imports its own: those of all three take a tenth of a start.
    if stage is StageName.INTAKE:
        from streams.intake import IntakeStage

        wired = IntakeStage(read_definitions(settings.config), shards)
    elif stage is StageName.TALLY:
        from streams.mirrored import MirroredClients
        from streams.tally import TallyStage

        wired = TallyStage(shards)
        linger_ms = settings.tally_linger_ms
        state = topics.TALLY_STATE.name
        directory = settings.state_directory / member_of(stage, instance)
        clients = MirroredClients(clients, directory, state, lambda: topic_id(kafka, state))
    else:
        from streams.bill import BillStage

        wired = BillStage(read_definitions(settings.config), shards)
        linger_ms = settings.bill_linger_ms
    tune_process()
    Transactor(wired, clients, instance=instance, stop=stop, linger_ms=linger_ms).run()


def _deliver(stage: StageName, settings: Settings, instance: str, stop: threading.Event) -> None:
    """ClickHouse and Stripe are fed by the delivery loop."""
    from streams.confluent import ConfluentClients
    from streams.deliver import Deliverer

    clients = ConfluentClients(settings.kafka())
    if stage is StageName.CLICKHOUSE:
        from sinks.clickhouse.connect import Connection
        from sinks.clickhouse.write import ClickHouseSink

        connection = Connection(settings.clickhouse_url, settings.clickhouse_password)
        try:
            Deliverer(
                stage,
                ClickHouseSink(connection),
                clients,
                instance=instance,
                stop=stop,
                linger_ms=settings.clickhouse_linger_ms,
            ).run()
        finally:
            connection.close()
        return
    from sinks.stripe.client import calls_per_second, stripe_client
    from sinks.stripe.deliver import StripeSink

    client = stripe_client(settings.stripe_api_key, settings.stripe_api_base)
    Deliverer(
        stage,
        StripeSink(client, calls_per_second=calls_per_second(settings.stripe_api_key)),
        clients,
        instance=instance,
        stop=stop,
        linger_ms=settings.stripe_linger_ms,
        notes_attempts=True,
    ).run()
