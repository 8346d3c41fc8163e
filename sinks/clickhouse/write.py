"""The sink: everything that analysts read, written to ClickHouse as rows that may be repeated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.open_frame import open_frame
from pipeline.record import Attempt, Record, Written
from schemas import topics
from sinks.clickhouse.events import event_rows
from sinks.clickhouse.pair import Decided, Pairing
from sinks.clickhouse.rows import alert_rows, delivery_rows, rejection_rows, total_rows

#: What one INSERT carries at most. 50,000 rows were the fastest on two cores; more only take
#: memory, which the byte limit bounds where events are large.
ROWS_MAX = 50_000
BYTES_MAX = 64 * 1024 * 1024

_PAIRED = (topics.METERED.name, topics.DECISIONS.name)

#: Tables partitioned by month, and the column that decides the month.
_MONTH_OF = {
    "events": "time",
    "totals": "period_start",
    "alerts": "period_start",
    "deliveries": "period_start",
}


class Inserts(Protocol):
    """What the sink needs of a client."""

    def insert_arrow(self, table: str, arrow_table: pa.Table) -> object:
        """Insert rows of one month as one block: all of them or none."""


class Database(Protocol):
    """Where the sink gets its client from; a `Connection` is one."""

    def client(self) -> AbstractContextManager[Inserts]:
        """A client for one piece of work.

        Raises:
            Retry: it cannot now.
            Stop: it refuses.
        """


class ClickHouseSink:
    """Writes each record at least once; its row counts once, because rows may be repeated.

    Both paired topics must be assigned together, partition by partition (the `range` assignor).
    """

    topics: Sequence[str] = (
        *_PAIRED,
        topics.TOTALS.name,
        topics.ALERTS.name,
        topics.REJECTED.name,
        topics.DELIVERIES.name,
    )

    def __init__(self, database: Database) -> None:
        self._database = database
        self._pairings: dict[int, Pairing] = {}

    def ahead(self) -> set[tuple[str, int]]:
        """Topics and partitions to pause, so that what waits does not outgrow the memory.

        Two topics are read side by side; the one that is far ahead of the other waits for it.
        """
        return {
            (topic, partition)
            for partition, pairing in self._pairings.items()
            if (topic := pairing.ahead()) is not None
        }

    def resume(self, topic: str, partition: int, attempt: Attempt | None) -> None:  # noqa: ARG002 - rows may be repeated, so it does not matter what was sent before
        """Begin with a partition."""
        self.forget(topic, partition)

    def forget(self, topic: str, partition: int) -> None:
        """Drop what waits in a partition; it was never committed, so its next owner reads it."""
        if topic in _PAIRED:
            self._pairings.pop(partition, None)

    def write(self, records: Sequence[Record], now_ms: int) -> Written:  # noqa: ARG002 - rows say the same at any time
        """Write what `records` decide; packs without decisions wait.

        Raises:
            Retry: ClickHouse cannot now; nothing is remembered of this call.
            Stop: see `Pairing`, `rows` and `faults`.
        """
        by_topic: dict[str, list[Record]] = {topic: [] for topic in self.topics}
        for record in records:
            by_topic[record.topic].append(record)

        # 1. What the records mean, without changing anything.
        pairings, decided = self._paired([record for name in _PAIRED for record in by_topic[name]])
        tables = _tables(by_topic, decided)

        # 2. Durable rows. A crash between two inserts repeats all of them.
        if tables:
            with self._database.client() as client:
                for table, rows in tables.items():
                    for part in insertable(rows, _MONTH_OF.get(table)):
                        _insert(client, table, part)

        # 3. Only now the packs are done with, and their positions may be committed.
        self._pairings.update(pairings)
        positions = {
            (record.topic, record.partition): record.offset + 1
            for record in records
            if record.topic not in _PAIRED
        }
        for pairing in pairings.values():
            positions.update(pairing.positions())
        return Written(positions)

    def _paired(self, records: Sequence[Record]) -> tuple[dict[int, Pairing], list[Decided]]:
        by_partition: dict[int, list[Record]] = {}
        for record in records:
            by_partition.setdefault(record.partition, []).append(record)
        pairings = {}
        decided = []
        for partition, of_partition in by_partition.items():
            pairing = self._pairings.get(partition, Pairing(partition))
            pairings[partition], done = pairing.step(of_partition)
            decided += done
        return pairings, decided


def _tables(by_topic: dict[str, list[Record]], decided: list[Decided]) -> dict[str, pa.Table]:
    """The rows of each table that gets any."""
    tables: dict[str, pa.Table] = {}
    if decided:
        tables["events"], tables["set_aside"] = event_rows(decided)
    if frames := [open_frame(record) for record in by_topic[topics.TOTALS.name]]:
        tables["totals"] = total_rows(frames)
    for table, rows_of, topic in (
        ("alerts", alert_rows, topics.ALERTS.name),
        ("rejections", rejection_rows, topics.REJECTED.name),
        ("deliveries", delivery_rows, topics.DELIVERIES.name),
    ):
        if records := by_topic[topic]:
            tables[table] = rows_of(records)
    return {table: rows for table, rows in tables.items() if rows.num_rows}


def insertable(rows: pa.Table, month_of: str | None) -> Iterator[pa.Table]:
    """`rows` in parts that make one INSERT each: of one month, so that one INSERT is one part of
    the table and therefore whole or absent, and within `ROWS_MAX` and `BYTES_MAX`.
    """
    for month in _by_month(rows, month_of) if month_of else [rows]:
        size = max(1, min(ROWS_MAX, BYTES_MAX * month.num_rows // max(month.nbytes, 1)))
        for begin in range(0, month.num_rows, size):
            yield month.slice(begin, size)


def _by_month(rows: pa.Table, column: str) -> Iterator[pa.Table]:
    times = rows.column(column)
    ends = pc.min_max(times)
    first, last = (np.datetime64(ends[end].value, times.type.unit) for end in ("min", "max"))
    if _months(first) == _months(last):
        yield rows
        return
    months = _months(times.to_numpy())
    for month in np.unique(months):
        yield rows.filter(pa.array(months == month))


def _months(times: Any) -> Any:
    """The month of an instant, or of each."""
    return times.astype("datetime64[M]")


def _insert(client: Inserts, table: str, rows: pa.Table) -> None:
    client.insert_arrow(table, rows.combine_chunks())
