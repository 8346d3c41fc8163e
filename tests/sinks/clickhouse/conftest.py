"""A real engine for each test: chDB in a directory of its own, migrated."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from sinks.clickhouse.connect import Connection
from sinks.clickhouse.migrate import migrate


@pytest.fixture
def clickhouse_url(tmp_path: Path) -> str:
    """The address of the test's database."""
    return f"chdb://{tmp_path}/clickhouse"


@pytest.fixture
def unmigrated(clickhouse_url: str) -> Iterator[Connection]:
    """An empty database."""
    connection = Connection(clickhouse_url, SecretStr(""))
    yield connection
    connection.close()


@pytest.fixture
def clickhouse(unmigrated: Connection) -> Connection:
    """A database with all tables and views."""
    with unmigrated.client() as client:
        migrate(client)
    return unmigrated
