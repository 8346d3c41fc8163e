"""The insert path of the ClickHouse sink: packs and decisions in, rows in the engine.

The engine is inside this process, so one figure has all of it: CPU time is that of the process,
user and system, with opening and pairing packs, Arrow columns, the client, and every thread of the
engine: parsing, sorting, compressing, writing, and the merges that run meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from clickhouse_connect.driver.client import Client
from pydantic import SecretStr

from benchmarks.clickhouse_feed import ALL_TOPICS, EVENT_TOPICS, Feed
from sinks.clickhouse.connect import Connection
from sinks.clickhouse.migrate import migrate
from sinks.clickhouse.write import ClickHouseSink

CONTENDERS = (
    "sink",
    "sink, merges put off",
    "sink, with totals",
    "bare insert",
    "bare insert, merges put off",
    "conversion",
)
_TABLES = ("events", "set_aside", "totals", "alerts")
_QUIET_SECONDS = 0.5
_PATIENCE_SECONDS = 600.0


@dataclass
class Cost:
    """What some rows took. `later_cpu_seconds` are for merges after the last insert."""

    rows: int = 0
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    later_cpu_seconds: float = 0.0

    def figures(self) -> dict[str, float]:
        """As saved."""
        return {
            "rows": self.rows,
            "rows_per_cpu_second": self.rows / self.cpu_seconds,
            "rows_per_cpu_second_merged": self.rows / (self.cpu_seconds + self.later_cpu_seconds),
            "rows_per_second": self.rows / self.wall_seconds,
        }


class Kept:
    """A database that only keeps what it gets: the conversion alone; `tables` in their order."""

    def __init__(self) -> None:
        self.tables: list[tuple[str, pa.Table]] = []

    @contextmanager
    def client(self) -> Iterator[Kept]:
        """Itself."""
        yield self

    def insert_arrow(self, table: str, arrow_table: pa.Table) -> None:
        """Keep it."""
        self.tables.append((table, arrow_table))


def measure(directory: Path, events: int, rounds: int) -> dict[str, dict[str, float]]:
    """The sink beside bare inserts of the same columns, in turns, `rounds` times each.

    Raises:
        RuntimeError: some event is not there once, or a sum of values is wrong.
    """
    feed = Feed(events)
    connection = Connection(f"chdb://{directory}", SecretStr(""))
    with connection.client() as client:
        migrate(client)
    costs = {name: Cost() for name in CONTENDERS}
    # Whatever is made at its first use is not part of a row's cost.
    _written(connection, feed, EVENT_TOPICS)
    for _ in range(rounds):
        kept = Kept()
        converted = _written(kept, feed, EVENT_TOPICS, costs["conversion"])
        for suffix in ("", ", merges put off"):
            put_off = bool(suffix)
            bare, sink = costs[f"bare insert{suffix}"], costs[f"sink{suffix}"]
            with _measured(connection, bare, converted, put_off=put_off) as client:
                for table, rows in kept.tables:
                    client.insert_arrow(table, rows)
            with _measured(connection, sink, converted, put_off=put_off):
                _written(connection, feed, EVENT_TOPICS)
            _check(connection, feed)
    everything = Kept()
    converted = _written(everything, feed, ALL_TOPICS)
    with _measured(connection, costs["sink, with totals"], converted):
        _written(connection, feed, ALL_TOPICS)
    _check(connection, feed)
    with connection.client() as client:
        ((size, rows),) = client.query(
            "SELECT sum(bytes_on_disk), sum(rows) FROM system.parts WHERE active"
            " AND database = currentDatabase() AND table = 'events'"
        ).result_rows
    connection.close()
    return {name: cost.figures() for name, cost in costs.items()} | {
        "disk": {"bytes_per_event": size / rows}
    }


def wait_until_merged(client: Client) -> float:
    """Return when no merge has run for a while; how long that took, without this while.

    Raises:
        TimeoutError: merges go on and on.
    """
    begin = quiet_since = time.monotonic()
    while time.monotonic() - quiet_since < _QUIET_SECONDS:
        if client.query("SELECT count() FROM system.merges").result_rows[0][0]:
            quiet_since = time.monotonic()
        if time.monotonic() - begin > _PATIENCE_SECONDS:
            raise TimeoutError("merges go on after all rows were inserted")
        time.sleep(0.1)
    return quiet_since - begin


def _written(
    database: Connection | Kept, feed: Feed, wanted: Collection[str], cost: Cost | None = None
) -> int:
    """Round 0 through a new sink; how many rows a `Kept` got."""
    sink = ClickHouseSink(database)
    sink.write(feed.first, 0)
    with _clock(cost or Cost()):
        for records in feed.round(0, wanted):
            sink.write(records, 0)
    rows = sum(len(rows) for _, rows in database.tables) if isinstance(database, Kept) else 0
    if cost is not None:
        cost.rows += rows
    return rows


@contextmanager
def _measured(
    connection: Connection, cost: Cost, rows: int, *, put_off: bool = False
) -> Iterator[Client]:
    """Empty tables, to be filled with `rows` rows; with `put_off` they are merged afterwards."""
    with connection.client() as client:
        for table in _TABLES:
            client.command(f"TRUNCATE TABLE {table}")
        wait_until_merged(client)
        if put_off:
            client.command("SYSTEM STOP MERGES")
        with _clock(cost):
            yield client
        cost.rows += rows
        later = time.process_time()
        client.command("SYSTEM START MERGES")
        wait_until_merged(client)
        cost.later_cpu_seconds += time.process_time() - later


@contextmanager
def _clock(cost: Cost) -> Iterator[None]:
    begin, cpu_begin = time.perf_counter(), time.process_time()
    yield
    cost.cpu_seconds += time.process_time() - cpu_begin
    cost.wall_seconds += time.perf_counter() - begin


def _check(connection: Connection, feed: Feed) -> None:
    """Each accepted event is there once, each copy is set aside, and every sum is right."""
    with connection.client() as client:
        rows = client.query(
            "SELECT customer, type, sum(JSONExtractInt(data, 'value')), count() FROM events FINAL"
            " GROUP BY customer, type"
        ).result_rows
        ((copies,),) = client.query("SELECT count() FROM set_aside FINAL").result_rows
    expected = feed.workload.expected()
    if {(customer, kind): (value, events) for customer, kind, value, events in rows} != expected:
        raise RuntimeError("what ClickHouse has of some customer is not what was sent")
    if sum(one.events for one in expected.values()) + copies != feed.workload.events:
        raise RuntimeError(f"{copies} copies are set aside, which is not what was sent")
