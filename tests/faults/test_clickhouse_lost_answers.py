"""ClickHouse has written the rows and its answer is lost: the rows are exact all the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import OperationalError
from pydantic import SecretStr

from pipeline.errors import Retry
from sinks.clickhouse.connect import Connection
from sinks.clickhouse.migrate import migrate
from sinks.clickhouse.write import ClickHouseSink
from tests.sinks.clickhouse.seeded_log import Place, SeededLog, rows_in

#: Of all inserts, those whose answer is lost.
LOST = 0.3
NOW_MS = 0


class Forgetful:
    """The real client; of some inserts, all of which happen, it hears no answer."""

    def __init__(self, client: Client, rng: Random) -> None:
        self._client = client
        self._rng = rng

    def insert_arrow(self, table: str, rows: Any) -> None:
        """Insert, and perhaps time out after that."""
        self._client.insert_arrow(table, rows)
        if self._rng.random() < LOST:
            raise OperationalError("Error executing HTTP request: Read timed out.")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


class LossyConnection(Connection):
    """A connection with such a client."""

    def __init__(self, url: str, rng: Random) -> None:
        super().__init__(url, SecretStr(""))
        self._rng = rng

    @contextmanager
    def client(self) -> Iterator[Client]:
        with super().client() as client:
            yield Forgetful(client, self._rng)  # type: ignore[misc]


@pytest.mark.parametrize("seed", range(3))
def test_time_outs_after_the_insert_repeat_rows_and_change_none(tmp_path: Path, seed: int) -> None:
    """The same records are given again, as the delivery loop does after a `Retry`."""
    log, rng = SeededLog(seed), Random(seed)
    url = f"chdb://{tmp_path / 'clickhouse'}"
    sound = Connection(url, SecretStr(""))
    with sound.client() as client:
        migrate(client)
        client.command("SYSTEM STOP MERGES")
    lossy = LossyConnection(url, rng)
    sink = ClickHouseSink(lossy)
    committed: dict[Place, int] = {}
    lost = 0
    for batch in log.batches({}, rng):
        while True:
            try:
                committed.update(sink.write(batch, NOW_MS).positions)
                break
            except Retry:
                lost += 1
    lossy.close()
    try:
        with sound.client() as client:
            assert rows_in(client) == log.expected
    finally:
        sound.close()
    assert lost > 2
    assert committed == {place: records[-1].offset + 1 for place, records in log.records.items()}
