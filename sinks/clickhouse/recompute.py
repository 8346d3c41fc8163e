"""What reconciliation asks ClickHouse: outcomes of positions, totals, and totals counted anew.

A total is counted anew from the accepted events that it has counted by its own account: those of
its version or below, by definitions that had its meter. So the two must be equal at any moment,
however much is on its way. Quantities are sums of wide decimals and never pass through a float.

Use inside `Connection.client`, which maps errors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from clickhouse_connect.driver.client import Client

from pipeline.place import INDEX_BITS
from pipeline.reconcile_totals import Key, Recomputed, Selection, Stored
from schemas.meter import Aggregation, Meter, Period, path_steps
from schemas.quantity import from_plain

#: How ClickHouse counts each aggregation, exactly. `latest` is by time, then by the order of the
#: log. In one pack that is known of the events of one partition only: where events of several are
#: the latest, which of them tally took cannot be told, and the value is NULL.
_AGGREGATES: Mapping[Aggregation, str] = {
    "count": "toDecimal256(count(), 9)",
    "sum": "sum(value)",
    "max": "max(value)",
    "min": "min(value)",
    "latest": "if("
    "argMax(source_partition, (time, version, source_partition))"
    " = argMax(source_partition, (time, version, -source_partition)), "
    "argMax(value, (time, version, source_offset, source_index)), NULL)",
}

#: The first day of each period, as a Date32.
_STARTS: Mapping[Period, str] = {
    "month": "addDays(toDate32(time), 1 - toDayOfMonth(time))",
    "day": "toDate32(time)",
}

#: A JSON number with a fraction or an exponent comes out of ClickHouse by way of a double, which is
#: exact up to 15 digits. With a longer number anywhere in the data, it is not taken as exact, but
#: from the text, if it stands there under a name that is written once. The second form is that with
#: a point among the digits.
_LONG_NUMBER = "[0-9]{16,}|[0-9.]{17,}"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]+")

#: 2262-04-11T23:47:16, the last that an event's time in ClickHouse, which has nanoseconds, can be
#: compared with. No event is later.
_CALENDAR_END_MS = 2**63 // 1_000_000


class OutcomeCount(NamedTuple):
    """Rows of one outcome and input partition; `checksum` as in `pipeline.reconcile_ledger`."""

    partition: int
    outcome: str
    events: int
    checksum: int


def outcomes(client: Client, first: Sequence[int], cut: Sequence[int]) -> list[OutcomeCount]:
    """Rows whose position in usage.events lies in [first, cut), both by partition."""
    within = (
        "source_partition < length({first:Array(UInt64)})"
        " AND source_offset >= {first:Array(UInt64)}[source_partition + 1]"
        " AND source_offset < {cut:Array(UInt64)}[source_partition + 1]"
    )
    number = f"source_offset + bitShiftLeft(toUInt64(source_index), {INDEX_BITS})"
    columns = f"source_partition, count(), sum({number})"
    rows = client.query(
        f"""
        SELECT 'accepted', {columns} FROM events FINAL WHERE {within} GROUP BY source_partition
        UNION ALL
        SELECT toString(status), {columns} FROM set_aside FINAL WHERE {within}
        GROUP BY status, source_partition
        UNION ALL
        SELECT 'rejected', {columns} FROM rejections FINAL WHERE {within} GROUP BY source_partition
        """,
        parameters={"first": list(first), "cut": list(cut)},
    ).result_rows
    return [OutcomeCount(row[1], row[0], row[2], row[3]) for row in rows]


def stored_totals(client: Client, selection: Selection) -> dict[Key, dict[str, Stored]]:
    """Current totals of the selected periods: key → group → total."""
    found: dict[Key, dict[str, Stored]] = {}
    rows = client.query(
        f"""
        SELECT customer, meter, toUnixTimestamp64Milli(period_start), group_key, version, events,
               toString(value), toString(usage), toUnixTimestamp64Milli(period_end)
        FROM totals FINAL WHERE {_TOTALS_SELECTED}
        """,
        parameters=_parameters(selection),
    ).result_rows
    for customer, meter, start_ms, group, version, events, value, usage, end_ms in rows:
        stored = Stored(version, events, from_plain(value), from_plain(usage), end_ms)
        found.setdefault(Key(customer, meter, start_ms), {})[group] = stored
    return found


def older_totals(client: Client, selection: Selection) -> int:
    """How many totals are of periods before the selected ones."""
    rows = client.query(
        """
        SELECT count() FROM totals FINAL
        WHERE period_start < fromUnixTimestamp64Milli({from_ms:Int64}, 'UTC')
          AND ({customer:String} = '' OR customer = {customer:String})
        """,
        parameters=_parameters(selection),
    ).result_rows
    return int(rows[0][0])


def why_not_recomputed(meter: Meter) -> str | None:
    """Why ClickHouse cannot count a meter anew exactly; None where it can."""
    if meter.aggregation not in _AGGREGATES:
        return f"{meter.slug}: {meter.aggregation} is not counted anew in SQL"
    if meter.period not in _STARTS:
        return f"{meter.slug}: periods of a {meter.period} are not counted anew in SQL"
    return None


def recomputed(
    client: Client, meter: Meter, without: Sequence[str], selection: Selection
) -> dict[Key, Recomputed]:
    """A meter's totals over all groups, counted anew; `without` are definitions that lack it."""
    value, names = _value(meter)
    rows = client.query(
        f"""
        WITH stored AS (
            SELECT customer, toUnixTimestamp64Milli(period_start) AS start_ms,
                   max(totals.version) AS counted_to, sum(totals.events) AS counted,
                   argMax(totals.usage, totals.version) AS newest_usage
            FROM totals FINAL
            WHERE meter = {{meter:String}} AND {_TOTALS_SELECTED}
            GROUP BY customer, start_ms
        )
        SELECT one.customer, one.start_ms, count(), toString({_AGGREGATES[meter.aggregation]}),
               countIf(isNull(one.value)), max(one.version), any(stored.counted_to),
               any(stored.counted), toString(any(stored.newest_usage)),
               argMax(one.definitions, one.version)
        FROM (
            SELECT customer, time, version, source_partition, source_offset, source_index,
                   definitions, {value} AS value,
                   toUnixTimestamp64Milli(toDateTime64({_STARTS[meter.period]}, 3, 'UTC'))
                       AS start_ms
            FROM events FINAL
            WHERE type = {{type:String}} AND NOT has(late_for, {{meter:String}})
              AND NOT has({{without:Array(String)}}, definitions)
              AND ({{customer:String}} = '' OR customer = {{customer:String}})
              AND time >= fromUnixTimestamp64Milli({{from_ms:Int64}}, 'UTC')
        ) AS one
        LEFT JOIN stored ON stored.customer = one.customer AND stored.start_ms = one.start_ms
        WHERE one.start_ms >= {{from_ms:Int64}} AND one.start_ms < {{until_ms:Int64}}
          AND (stored.counted = 0 OR one.version <= stored.counted_to)
        GROUP BY one.customer, one.start_ms
        """,
        parameters=_parameters(selection)
        | names
        | {"meter": meter.slug, "type": meter.event_type, "without": list(without)},
    ).result_rows
    found = {}
    for (
        customer, start_ms, events, text, unreadable, newest, version, counted, usage, definitions,
    ) in rows:  # fmt: skip
        found[Key(customer, meter.slug, start_ms)] = Recomputed(
            events=events,
            units=None if unreadable or text is None else from_plain(text),
            newest=newest,
            version=version,
            counted=counted,
            usage=from_plain(usage),
            definitions=definitions,
        )
    return found


_TOTALS_SELECTED = (
    "period_start >= fromUnixTimestamp64Milli({from_ms:Int64}, 'UTC')"
    " AND period_start < fromUnixTimestamp64Milli({until_ms:Int64}, 'UTC')"
    " AND ({customer:String} = '' OR customer = {customer:String})"
)


def _parameters(selection: Selection) -> dict[str, Any]:
    return {
        "from_ms": min(selection.from_ms, _CALENDAR_END_MS),
        "until_ms": min(selection.until_ms, _CALENDAR_END_MS),
        "customer": selection.customer or "",
    }


def _value(meter: Meter) -> tuple[str, dict[str, str]]:
    """A value in the data as a wide decimal, NULL where it is not exact; and the names in it."""
    if meter.value is None:
        return "CAST(1, 'Nullable(Decimal(76, 9))')", {}
    names = {}
    steps = ""
    for number, step in enumerate(path_steps(meter.value)):
        if isinstance(step, int):
            steps += f", {step + 1}"
        else:
            names[f"step_{number}"] = step
            steps += f", {{step_{number}:String}}"
    kind = f"JSONType(data{steps})"
    text = f"if({kind} = 'String', JSONExtractString(data{steps}), JSONExtractRaw(data{steps}))"
    inexact = f"{kind} = 'Double' AND match(data, '{_LONG_NUMBER}')"
    return f"toDecimal256OrNull(if({inexact}, {_written(meter.value)}, {text}), 9)", names


def _written(path: str) -> str:
    """The text of a number in the data; NULL where another one might be meant."""
    steps = path_steps(path)
    if not steps:
        return "data"
    name = steps[-1]
    if not isinstance(name, str) or not _PLAIN_NAME.fullmatch(name):
        return "NULL"
    before = f'"{name}"[[:space:]]*:[[:space:]]*'
    # Without backslashes no name is written in another way, and none stands inside a text.
    is_sure = f"countMatches(data, '{before}') = 1 AND position(data, char(92)) = 0"
    return f"if({is_sure}, extract(data, '{before}([-+.eE0-9]+)'), NULL)"
