"""Bring a database to the schema of this program: plain SQL files, applied in order, once."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from importlib.resources import files
from typing import NamedTuple

from clickhouse_connect.driver.client import Client

from pipeline.errors import Stop

#: Applied files and what they said. Two processes that migrate at once leave one row a file.
_BOOK = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    name String COMMENT 'File of the migration',
    checksum String COMMENT 'SHA-256 of the file, hexadecimal',
    applied_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC') COMMENT 'When it was applied'
)
ENGINE = ReplacingMergeTree(applied_at)
ORDER BY name
COMMENT 'Migrations of Meterline that were applied to this database'
"""

_STRING = r"""'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.)*"|`(?:[^`\\]|\\.)*`"""
_TOKEN = re.compile(
    rf"(?P<comment>--[^\n]*|/\*.*?\*/)|(?P<end>;)|(?:{_STRING})|[^-/;'\"`]+|.", re.DOTALL
)


class Migration(NamedTuple):
    """One file: its name, its SHA-256 and its text."""

    name: str
    checksum: str
    sql: str


def migrate(client: Client) -> list[str]:
    """Apply what is missing, in order of names; the names of what was applied.

    ClickHouse has no transactions for DDL. Every statement may therefore be repeated (IF NOT
    EXISTS, OR REPLACE), so a migration that was cut short, or runs twice at once, ends the same.

    Raises:
        Stop: an applied file has changed since, or the database is newer than this program.
        ClickHouseError: from the client; `Connection.client` turns it into a reaction.
    """
    client.command(_BOOK)
    applied = []
    for migration in pending(client):
        for statement in statements(migration.sql):
            client.command(statement)
        client.insert(
            "schema_migrations",
            [[migration.name, migration.checksum]],
            column_names=["name", "checksum"],
        )
        applied.append(migration.name)
    return applied


def pending(client: Client) -> list[Migration]:
    """What a database lacks, in order; changes nothing. Raises like `migrate`."""
    known = migrations()
    if not client.query("EXISTS TABLE schema_migrations").result_rows[0][0]:
        return known
    rows = client.query("SELECT name, checksum FROM schema_migrations FINAL").result_rows
    book = {str(name): str(checksum) for name, checksum in rows}
    _require_same_history(known, book)
    return [migration for migration in known if migration.name not in book]


def migrations() -> list[Migration]:
    """All migrations that this program carries, in order."""
    folder = files("sinks.clickhouse") / "migrations"
    found = []
    for file in folder.iterdir():
        if file.name.endswith(".sql"):
            content = file.read_bytes()
            found.append(
                Migration(file.name, hashlib.sha256(content).hexdigest(), content.decode())
            )
    return sorted(found)


def statements(sql: str) -> Iterator[str]:
    """The statements of a file, without comments: split at semicolons outside of quotes."""
    statement: list[str] = []
    for token in _TOKEN.finditer(sql + ";"):
        if token["comment"]:
            statement.append(" ")
        elif not token["end"]:
            statement.append(token[0])
        elif text := "".join(statement).strip():
            yield text
            statement = []


def _require_same_history(known: list[Migration], book: dict[str, str]) -> None:
    checksums = {migration.name: migration.checksum for migration in known}
    newer = sorted(book.keys() - checksums.keys())
    if newer:
        raise Stop(
            f"The database has migrations that this program does not know: {', '.join(newer)}.",
            remedy="Upgrade Meterline here to the version that migrated the database.",
        )
    changed = sorted(name for name, checksum in book.items() if checksums[name] != checksum)
    if changed:
        raise Stop(
            f"Applied migrations have changed since: {', '.join(changed)}.",
            remedy="Restore these files as they were, and put the change into a new migration.",
        )
