"""ClickHouse and Stripe as the sinks can tell: what they took, and every way a call goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from pipeline.errors import Retry
from sinks.stripe.account import Account, Answer
from sinks.stripe.wire import Wire, no_connection
from tests.simulation.world import World

#: What makes a row of a table the same row: its ORDER BY, and the column whose newest value wins.
#: As in `sinks/clickhouse/migrations`, which a test compares.
TABLES: dict[str, tuple[tuple[str, ...], str | None]] = {
    "events": (("customer", "type", "time", "source", "id"), None),
    "set_aside": (("source_partition", "source_offset", "source_index"), None),
    "rejections": (("source_partition", "source_offset", "source_index"), None),
    "totals": (("customer", "meter", "period_start", "group_key"), "version"),
    "alerts": (("customer", "meter", "period_start", "threshold"), None),
    "deliveries": (("identifier",), "at"),
}


class SimulatedClickHouse:
    """A `sinks.clickhouse.write.Database`: tables that keep every row ever inserted."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._inserted: dict[str, list[pa.Table]] = {table: [] for table in TABLES}

    @contextmanager
    def client(self) -> Iterator[SimulatedClickHouse]:
        """Itself."""
        yield self

    def insert_arrow(self, table: str, arrow_table: pa.Table) -> None:
        """Insert one block."""
        self._world.effect(
            f"clickhouse: insert {table}",
            lambda: self._inserted[table].append(arrow_table),
            lambda: Retry("ClickHouse does not answer.", remedy="Wait."),
            repeats=True,
        )

    def final(self, table: str) -> list[dict[str, Any]]:
        """The rows under FINAL."""
        order_by, version = TABLES[table]
        newest: dict[tuple[object, ...], dict[str, Any]] = {}
        for block in self._inserted[table]:
            for row in block.to_pylist():
                key = tuple(row[column] for column in order_by)
                if key not in newest or version is None or row[version] >= newest[key][version]:
                    newest[key] = row
        return list(newest.values())


class SimulatedStripe(Wire):
    """The wire beneath Stripe's SDK, on which calls and answers may be lost or come late."""

    name = "simulated"

    def __init__(self, world: World, account: Account) -> None:
        super().__init__(account)
        self._world = world

    def carry(self, call: Callable[[], Answer]) -> Answer:
        """One call."""
        return self._world.effect("stripe: call", call, no_connection, repeats=True)


class InTurn(Executor):
    """Runs what is submitted at once: in a simulated process there is only one thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run it now; a kill is no result."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future
