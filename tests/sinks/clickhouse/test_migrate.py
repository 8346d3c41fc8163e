"""Migrations: each once, in order, safe to repeat and to run twice at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from clickhouse_connect.driver.client import Client
from pydantic import SecretStr

from pipeline.errors import Stop
from sinks.clickhouse.connect import Connection
from sinks.clickhouse.migrate import migrate, migrations, statements

NAMES = [migration.name for migration in migrations()]


def _tables(client: Client) -> list[tuple[str, str]]:
    rows = client.query(
        "SELECT name, create_table_query FROM system.tables "
        "WHERE database = currentDatabase() ORDER BY name"
    ).result_rows
    return [(str(name), str(query)) for name, query in rows]


def _book(client: Client, name: str, checksum: str) -> None:
    client.insert("schema_migrations", [[name, checksum]], column_names=["name", "checksum"])


def test_a_second_run_has_nothing_to_do(unmigrated: Connection) -> None:
    with unmigrated.client() as client:
        assert migrate(client) == NAMES
        assert migrate(client) == []


def test_a_run_that_was_cut_short_is_completed_by_the_next(unmigrated: Connection) -> None:
    """Cut after each statement in turn, the last one of a file included: its name is missing."""
    with unmigrated.client() as client:
        migrate(client)
        complete = _tables(client)
        every = [text for migration in migrations() for text in statements(migration.sql)]
        for done in range(len(every) + 1):
            for name, _ in complete:
                client.command(f"DROP TABLE `{name}` SYNC")
            for statement in every[:done]:
                client.command(statement)
            assert migrate(client) == NAMES
            assert _tables(client) == complete


def test_two_runs_at_once_end_as_one(unmigrated: Connection, clickhouse_url: str) -> None:
    twin = Connection(clickhouse_url, SecretStr(""))
    with unmigrated.client() as first, twin.client() as second, ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(migrate, (first, second)))
        assert {name for run in runs for name in run} == set(NAMES)
        assert migrate(first) == []
    twin.close()


def test_an_applied_file_that_has_changed_stops(clickhouse: Connection) -> None:
    with clickhouse.client() as client:
        _book(client, NAMES[1], "0" * 64)
        with pytest.raises(Stop, match=NAMES[1]):
            migrate(client)


def test_a_database_newer_than_the_program_stops(clickhouse: Connection) -> None:
    with clickhouse.client() as client:
        _book(client, "9999_later.sql", "")
        with pytest.raises(Stop, match=r"9999_later\.sql.*Upgrade"):
            migrate(client)


def test_every_column_and_every_table_says_what_it_means(clickhouse: Connection) -> None:
    with clickhouse.client() as client:
        silent = client.query(
            "SELECT table, name FROM system.columns WHERE database = currentDatabase() AND "
            "comment = '' UNION ALL SELECT name, '' FROM system.tables "
            "WHERE database = currentDatabase() AND comment = ''"
        ).result_rows
    assert silent == []


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("", []),
        ("-- nothing; here\n /* nor; here */ ;;", []),
        ("SELECT 1; SELECT 2", ["SELECT 1", "SELECT 2"]),
        ("SELECT ';--'; SELECT \"a;b\", `c;d`", ["SELECT ';--'", 'SELECT "a;b", `c;d`']),
        ("SELECT 'it''s; \\'; /*'; SELECT 2", ["SELECT 'it''s; \\'; /*'", "SELECT 2"]),
        ("SELECT 4 - 2 / 1 -- half; of it\n, 3;", ["SELECT 4 - 2 / 1  \n, 3"]),
    ],
)
def test_a_file_is_split_at_semicolons_that_end_a_statement(sql: str, expected: list[str]) -> None:
    assert list(statements(sql)) == expected
