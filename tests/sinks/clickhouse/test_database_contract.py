"""The real engine and the simulated one keep the same rows under FINAL, whatever is repeated."""

from __future__ import annotations

from random import Random

import pytest

from sinks.clickhouse.connect import Connection
from sinks.clickhouse.write import ClickHouseSink, Database
from tests.simulation.outside import TABLES, SimulatedClickHouse
from tests.simulation.world import World
from tests.sinks.clickhouse.seeded_log import SeededLog


def test_the_simulation_knows_what_makes_a_row_the_same_row(clickhouse: Connection) -> None:
    with clickhouse.client() as client:
        found = client.query(
            "SELECT name, sorting_key, "
            "extract(engine_full, '^ReplacingMergeTree\\\\((\\\\w+)\\\\)') "
            "FROM system.tables WHERE database = currentDatabase() AND engine LIKE '%MergeTree'"
        ).result_rows
    tables = {name: (tuple(key.split(", ")), version or None) for name, key, version in found}
    assert {name: tables[name] for name in TABLES} == TABLES


@pytest.mark.parametrize("seed", range(3))
def test_both_end_with_the_same_rows(clickhouse: Connection, seed: int) -> None:
    """The same batches, each of them twice, written to one and to the other."""
    world = World(seed)
    simulated = SimulatedClickHouse(world)
    write_all(seed, clickhouse)
    process = world.start("sink", lambda: write_all(seed, simulated))
    world.run(1_000)
    assert process.dead
    assert process.failure is None
    with clickhouse.client() as client:
        for table, (order_by, version) in TABLES.items():
            columns = [*order_by, *([version] if version else [])]
            asked = ", ".join(f"toString({column})" for column in columns)
            real = client.query(f"SELECT {asked} FROM {table} FINAL").result_rows
            assert len(real) == len(simulated.final(table)), table
            texts = {name for name in columns if name in ("identifier", "customer", "meter", "id")}
            for name in texts:
                position = columns.index(name)
                assert sorted(row[position] for row in real) == sorted(
                    row[name] for row in simulated.final(table)
                )
            if version == "version":
                assert sorted(int(row[-1]) for row in real) == sorted(
                    row["version"] for row in simulated.final(table)
                )


def write_all(seed: int, database: Database) -> None:
    sink = ClickHouseSink(database)
    for batch in SeededLog(seed).batches({}, Random(seed)):
        sink.write(batch, 0)
    again = ClickHouseSink(database)
    for batch in SeededLog(seed).batches({}, Random(seed + 1)):
        again.write(batch, 0)
