"""Every stage in this process, on a real broker, the embedded ClickHouse and a stand-in of Stripe.

One process at a time may own the embedded engine, so the stages are threads here.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pydantic import SecretStr
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.commands.definitions import read_definitions
from pipeline.commands.play import _READS
from pipeline.generate import DEMO_DEFINITIONS, generate
from pipeline.ingest_file import read_ndjson
from schemas import topics
from schemas.definitions import Definitions
from schemas.reconciliation import Reconciliation
from sinks.clickhouse.connect import Connection
from sinks.clickhouse.migrate import migrate
from sinks.clickhouse.write import ClickHouseSink
from sinks.stripe.client import stripe_client
from sinks.stripe.deliver import StripeSink
from sinks.stripe.stand_in import StripeStandIn
from streams.backlog import backlog
from streams.bill import BillStage
from streams.confluent import ConfluentClients
from streams.deliver import Deliverer
from streams.forgotten import Answers
from streams.intake import IntakeStage
from streams.local_kafka import LocalKafka
from streams.producer import Producer
from streams.tally import TallyStage
from streams.topics import create_topics
from streams.transact import Transactor
from tests.streams.on_kafka import Loop, running, wait_until

KEY = "rk_live_stand_in"
SHARDS = 2
STAGES = ("intake", "tally", "bill", "stripe", "clickhouse")
CATALOGUE = topics.sized(shards=SHARDS, event_partitions=2)


class WholeSystem:
    """What a deployment consists of; `run` starts its stages."""

    def __init__(self, broker: LocalKafka, stripe: StripeStandIn, directory: Path) -> None:
        self.kafka = {"bootstrap.servers": broker.address}
        self.stripe = stripe
        self.clickhouse_url = f"chdb://{directory}/clickhouse"
        self.environment = {
            "METERLINE_BOOTSTRAP_SERVERS": broker.address,
            "METERLINE_CONFIG": str(DEMO_DEFINITIONS),
            "METERLINE_CLICKHOUSE_URL": self.clickhouse_url,
            "METERLINE_STRIPE_API_KEY": KEY,
            "METERLINE_STRIPE_API_BASE": stripe.url,
        }
        create_topics(self.kafka, CATALOGUE, keep_for_ever=True)
        with self.clickhouse() as connection, connection.client() as client:
            migrate(client)

    @contextmanager
    def clickhouse(self) -> Iterator[Connection]:
        """A connection of its own, for one thread."""
        connection = Connection(self.clickhouse_url, SecretStr(""))
        try:
            yield connection
        finally:
            connection.close()

    def command(self, *statements: str) -> None:
        """Tamper with ClickHouse, whose engine takes a while to open."""
        with self.clickhouse() as connection, connection.client() as client:
            for statement in statements:
                client.command(statement)

    def query(self, query: str) -> list[tuple[object, ...]]:
        """Ask ClickHouse."""
        with self.clickhouse() as connection, connection.client() as client:
            return [tuple(row) for row in client.query(query).result_rows]

    def send(self, events: int, seed: int = 1) -> None:
        """Publish generated events, with every kind of fault among them; every other one packed."""
        lines = list(read_ndjson(generate(events, 50, seed, datetime.now(UTC))))
        with Producer(self.kafka["bootstrap.servers"]) as producer:
            for line in lines[::2]:
                producer.send_raw(line.value, key=line.key, timestamp_ms=line.timestamp_ms)
        with Producer(self.kafka["bootstrap.servers"], pack_events=20, linger_ms=1_000) as packer:
            for line in lines[1::2]:
                packer.send_raw(line.value, key=line.key)

    @contextmanager
    def run(self, stages: Iterable[str] = STAGES) -> Iterator[None]:
        """The stages, until the end of the block."""
        definitions = read_definitions(Path(self.environment["METERLINE_CONFIG"]))
        with ExitStack() as stack:
            for stage in stages:
                stop = threading.Event()
                stack.enter_context(running(self._loop(stage, definitions, stop, stack), stop))
            yield

    def reconcile(self, *options: str) -> Reconciliation:
        """What `meterline reconcile` says of it."""
        given = ["reconcile", "--json", "--stripe-lag", "0", *options]
        ended = CliRunner().invoke(app, given, env=self.environment)
        if ended.exception is not None and not isinstance(ended.exception, SystemExit):
            raise ended.exception
        return Reconciliation.model_validate_json(ended.output)

    def settle(self) -> None:
        """Wait until every stage has confirmed all there is."""
        reads = {"intake": [topics.EVENTS.name], "tally": [topics.METERED.name], **_READS}
        for stage, names in reads.items():
            wait_until(lambda: backlog(self.kafka, stage, names) == 0, f"{stage} is done")  # noqa: B023

    def _loop(
        self, stage: str, definitions: Definitions, stop: threading.Event, stack: ExitStack
    ) -> Loop:
        clients = ConfluentClients(self.kafka)
        if stage == "intake":
            intake = IntakeStage(definitions, SHARDS)
            return Transactor(intake, clients, instance="one", stop=stop)
        if stage == "tally":
            return Transactor(TallyStage(SHARDS), clients, instance="one", stop=stop)
        if stage == "bill":
            bill = BillStage(definitions, SHARDS)
            return Transactor(bill, clients, instance="one", stop=stop, linger_ms=200)
        if stage == "stripe":
            sink = StripeSink(stripe_client(SecretStr(KEY), self.stripe.url), calls_per_second=1000)
            return Deliverer(
                stage, sink, clients,
                instance="one", stop=stop, linger_ms=50, notes_attempts=True,
                answers=Answers(clients, topics.OUTBOX.name, topics.DELIVERIES.name),
            )  # fmt: skip
        connection = stack.enter_context(self.clickhouse())
        return Deliverer(
            stage, ClickHouseSink(connection), clients,
            instance="one", stop=stop, linger_ms=50,
        )  # fmt: skip


@contextmanager
def whole_system(directory: Path) -> Iterator[WholeSystem]:
    """A deployment in a directory, with nothing counted yet."""
    with LocalKafka() as broker, StripeStandIn(KEY) as stripe:
        yield WholeSystem(broker, stripe, directory)
