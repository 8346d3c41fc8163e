"""`meterline migrate`: bring ClickHouse to the schema of this version."""

from __future__ import annotations

from rich.console import Console

from pipeline.settings import read_settings
from sinks.clickhouse import migrate as migrations
from sinks.clickhouse.connect import Connection


def migrate() -> None:
    """Create or update the tables and views of METERLINE_CLICKHOUSE_URL. Safe to repeat."""
    settings = read_settings()
    console = Console()
    connection = Connection(settings.clickhouse_url, settings.clickhouse_password)
    try:
        with connection.client() as client:
            applied = migrations.migrate(client)
    finally:
        connection.close()
    for name in applied:
        console.print(f"[green]applied[/green] {name}")
    if not applied:
        console.print("Nothing to do: ClickHouse has the schema of this version.")
