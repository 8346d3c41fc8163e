"""The analysts' usual queries, as docs/for-analysts.md has them, on one month of many events.

The events are made by the engine itself, in the order of their arrival and in INSERTs of 1,000,000
rows; going through Kafka and the sink would take hours and end as the same rows. Their customers
are skewed as in `benchmarks.workload` (a share proportional to rank^-0.5), days have busy and quiet
hours, values are log-normal, one event in a hundred is there twice, as after a crash of the sink.
Totals are what tally would have written: one version after half of the events, one after all.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any, Final

from clickhouse_connect.driver.client import Client
from pydantic import SecretStr

from benchmarks.clickhouse_insert import wait_until_merged
from sinks.clickhouse.connect import Connection
from sinks.clickhouse.migrate import migrate

PAGE: Final = Path(__file__).parents[1] / "docs/for-analysts.md"

#: What the page's queries call now.
_NOW = "toDateTime('2026-11-30 23:59:59', 'UTC')"
_KEPT = "A meter's p99 by hour, kept"
_READ_KEPT = "SELECT hour, p99 FROM tokens_by_hour FINAL ORDER BY hour"

_INSERT_ROWS = 1_000_000
_COPIED_ONE_IN = 100
_COLD = 3
_WARM = 20
_WARM_SECONDS_MAX = 20.0

#: `number` of `rows`; every column is a function of it.
_EVENTS = """
INSERT INTO events
WITH
    sipHash64(number, 1) / 18446744073709551616. AS rank,
    sipHash64(number, 2) AS draw,
    sipHash64(number, 3) AS id,
    (sipHash64(number, 4) + 1) / 18446744073709551617. AS radius,
    sipHash64(number, 5) / 18446744073709551616. AS angle,
    sqrt(-2 * log(radius)) * cos(2 * pi() * angle) AS normal,
    number / {rows} AS passed,
    toDateTime64('2026-11-01 00:00:00', 9, 'UTC') AS month,
    toInt64((passed - sin(60 * pi() * passed) / (100 * pi())) * 2591999000) AS received_ms
SELECT
    'cus_' || leftPad(toString(toUInt32({customers} * rank * rank)), 6, '0'),
    ['llm.request', 'storage.write', 'api.call'][draw % 3 + 1],
    month + toIntervalMillisecond(greatest(received_ms - draw % 2000, 0)),
    ['/gateway/eu-1', '/gateway/eu-2', '/gateway/us-1', '/gateway/us-2'][intDiv(draw, 3) % 4 + 1],
    lower(hex(id)),
    concat(
        '{{"tokens":', toString(1 + toUInt32(exp(5 + normal))),
        ',"model":"m-', toString(intDiv(draw, 12) % 3),
        '","region":"eu-', toString(intDiv(draw, 36) % 4), '"}}'
    ),
    month + toIntervalMillisecond(received_ms),
    number % 16, intDiv(number, 16), 0, [], intDiv(number, 10000), 'v1'
FROM numbers({begin}, {count})
SETTINGS max_block_size = {count}, min_insert_block_size_rows = {count},
    min_insert_block_size_bytes = 0
"""
_TOTALS = """
INSERT INTO totals
SELECT
    customer,
    transform(type, ['llm.request', 'storage.write', 'api.call'], ['tokens', 'bytes', 'calls']),
    toDateTime64('2026-11-01 00:00:00', 3, 'UTC'),
    toDateTime64('2026-12-01 00:00:00', 3, 'UTC'),
    map('model', JSONExtractString(data, 'model') AS model),
    '{{"model":"' || model || '"}}',
    sum(toDecimal256(JSONExtractUInt(data, 'tokens'), 9)) AS of_group,
    sum(of_group) OVER (PARTITION BY customer, type),
    count(), max(received_at), max(version)
FROM events FINAL
WHERE version <= {version}
GROUP BY customer, type, model
"""


def measure(directory: Path, rows: int, customers: int) -> dict[str, Any]:
    """Fill the tables, and time each query cold and warm.

    Raises:
        RuntimeError: an answer is wrong.
    """
    connection = Connection(f"chdb://{directory}", SecretStr(""))
    with connection.client() as client:
        migrate(client)
        begin = time.perf_counter()
        _fill(client, rows, customers)
        filled_seconds = time.perf_counter() - begin
        wait_until_merged(client)
        documented = _documented()
        begin = time.perf_counter()
        client.command(documented.pop(_KEPT))
        client.command("SYSTEM WAIT VIEW tokens_by_hour")
        kept_seconds = time.perf_counter() - begin
        queries = _queries(documented, customers)
        _check(client, rows, queries)
        results = {name: _timed(client, directory, sql) for name, sql in queries.items()}
        parts = client.query(
            "SELECT table, count(), sum(rows), sum(bytes_on_disk) FROM system.parts"
            " WHERE active AND database = currentDatabase() GROUP BY table"
        ).result_rows
    connection.close()
    return {
        "rows": rows,
        "customers": customers,
        "filled_seconds": filled_seconds,
        "kept_seconds": kept_seconds,
        "tables": {
            table: {"parts": count, "rows": held, "bytes_on_disk": size}
            for table, count, held, size in parts
            if table in ("events", "totals")
        },
        "queries": results,
    }


def _fill(client: Client, rows: int, customers: int) -> None:
    for begin in range(0, rows, _INSERT_ROWS):
        count = min(_INSERT_ROWS, rows - begin)
        client.command(_EVENTS.format(rows=rows, customers=customers, begin=begin, count=count))
        copied = max(1, count // _COPIED_ONE_IN)
        client.command(_EVENTS.format(rows=rows, customers=customers, begin=begin, count=copied))
    for version in (rows // 20_000, rows):
        client.command(_TOTALS.format(version=version))


def _documented() -> dict[str, str]:
    """Each query of the page by the title of its section, asked in the month of the events."""
    page = PAGE.read_text("utf-8")
    found = re.findall(r"^## (.+?)\n.*?^```sql\n(.+?);\s*^```", page, re.DOTALL | re.MULTILINE)
    return {title: sql.replace("now('UTC')", _NOW) for title, sql in found}


def _queries(documented: Mapping[str, str], customers: int) -> dict[str, str]:
    """What is timed."""
    heaviest, usual = "cus_000000", f"cus_{customers // 2:06d}"
    queries = {}
    for title, name in (
        ("One customer's month by day", "{}'s month by day"),
        ("Use by day, from the events", "{}'s month by day and model, with sums"),
        ("One customer, this month, by group", "{}'s month by model, from totals"),
    ):
        for who, customer in (("the largest customer", heaviest), ("a usual customer", usual)):
            queries[name.format(who)] = documented[title].replace("cus_1", customer)
    queries["top 100 customers of each month"] = documented["The largest customers of a meter"]
    queries["a meter's p99 by hour, last day, from the events"] = documented[
        "A meter's p99 by hour"
    ]
    queries["a meter's p99 by hour, month, kept"] = _READ_KEPT
    return queries


def _timed(client: Client, directory: Path, sql: str) -> dict[str, Any]:
    """Milliseconds until the whole answer is here, with nothing in memory and with everything."""
    cold: list[float] = []
    warm: list[float] = []
    for _ in range(_COLD):
        _forget(client, directory)
        cold.append(_once_ms(client, sql))
    end = time.monotonic() + _WARM_SECONDS_MAX
    while len(warm) < _WARM and (len(warm) < _COLD or time.monotonic() < end):
        warm.append(_once_ms(client, sql))
    return {
        name: {"p50": median(taken), "max": max(taken), "runs": len(taken)}
        for name, taken in (("cold_ms", cold), ("warm_ms", warm))
    }


def _once_ms(client: Client, sql: str) -> float:
    begin = time.perf_counter_ns()
    client.query_arrow(sql)
    return (time.perf_counter_ns() - begin) / 1e6


def _forget(client: Client, directory: Path) -> None:
    """Empty the engine's caches, and ask the system to drop what it has of the files."""
    for cache in ("MARK", "UNCOMPRESSED", "INDEX MARK", "INDEX UNCOMPRESSED", "QUERY CONDITION"):
        client.command(f"SYSTEM DROP {cache} CACHE")
    os.sync()
    for path in directory.rglob("*.*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _check(client: Client, rows: int, queries: Mapping[str, str]) -> None:
    """Copies count once; totals and events say the same of a customer, and of all of them."""
    ((events, tokens),) = client.query(
        "SELECT count(), sumIf(JSONExtractUInt(data, 'tokens'), type = 'llm.request')"
        " FROM events FINAL"
    ).result_rows
    ((counted, value),) = client.query(
        "SELECT sum(events), sumIf(value, meter = 'tokens') FROM usage"
    ).result_rows
    by_day = client.query_arrow(queries["a usual customer's month by day and model, with sums"])
    by_model = client.query_arrow(queries["a usual customer's month by model, from totals"])
    of_events = sum(by_day.column("tokens").to_pylist())
    of_totals = sum(
        row["value"] for row in by_model.to_pylist() if row["meter"] in ("tokens", b"tokens")
    )
    kept = client.query("SELECT sum(events) FROM tokens_by_hour FINAL").result_rows[0][0]
    sent = client.query("SELECT count() FROM events FINAL WHERE type = 'llm.request'").result_rows
    if (events, tokens) != (rows, value) or counted != rows or of_events != of_totals:
        raise RuntimeError(f"{events} events of {rows}, {tokens} tokens of {value}")
    if kept != sent[0][0]:
        raise RuntimeError(f"hours have {kept} events of {sent[0][0]}")
