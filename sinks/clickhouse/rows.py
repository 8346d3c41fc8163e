"""What travels becomes rows: one Arrow table for each table of ClickHouse. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from pipeline.errors import Stop
from pipeline.open_message import open_message
from pipeline.record import Record
from schemas import rejection
from schemas.alert import Alert
from schemas.billing import Delivery
from schemas.frame import Frame

#: 67 digits before the point and 9 after it: what ClickHouse's widest decimal holds.
DECIMAL = pa.decimal256(76, 9)
_INSTANT = pa.timestamp("us", "UTC")
_GROUP = pa.map_(pa.string(), pa.string())
#: The end of 2261, in milliseconds since 1970. No arrival is later; of times that ClickHouse itself
#: does not take its clients refuse to read whole columns.
_LAST_MS = 9_214_646_399_999

REJECTIONS = pa.schema(
    [
        pa.field("source_partition", pa.int32()),
        pa.field("source_offset", pa.int64()),
        pa.field("source_index", pa.int32()),
        pa.field("received_at", pa.timestamp("ms", "UTC")),
        pa.field("reason", pa.binary()),
        pa.field("message", pa.binary()),
        pa.field("remedy", pa.binary()),
        pa.field("original", pa.binary()),
    ]
)


ALERTS = pa.schema(
    [
        pa.field("customer", pa.string()),
        pa.field("meter", pa.string()),
        pa.field("period_start", _INSTANT),
        pa.field("period_end", _INSTANT),
        pa.field("plan", pa.string()),
        pa.field("limit", DECIMAL),
        pa.field("threshold", pa.string()),
        pa.field("value", DECIMAL),
        pa.field("crossed_at", _INSTANT),
        pa.field("event_source", pa.string()),
        pa.field("event_id", pa.string()),
    ]
)
DELIVERIES = pa.schema(
    [
        pa.field("identifier", pa.string()),
        pa.field("customer", pa.string()),
        pa.field("stripe_customer_id", pa.string()),
        pa.field("meter", pa.string()),
        pa.field("event_name", pa.string()),
        pa.field("period_start", _INSTANT),
        pa.field("value", DECIMAL),
        pa.field("outcome", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("remedy", pa.string()),
        pa.field("at", _INSTANT),
    ]
)


def total_rows(frames: Sequence[Frame]) -> pa.Table:
    """Rows of `totals`: of each total only the newest version."""
    rows = pa.Table.from_batches(
        [
            frame.parts[0].append_column(
                "version", pa.repeat(pa.scalar(frame.header["version"], pa.int64()), len(part))
            )
            for frame in frames
            for part in frame.parts[:1]
        ]
    )
    rows = rows.take(pa.array(np.argsort(rows.column("version").to_numpy(), kind="stable")))
    key = ["customer", "meter", "period_start", "group"]
    numbered = rows.select(key).append_column("row", pa.array(np.arange(rows.num_rows)))
    newest = numbered.group_by(key, use_threads=False).aggregate([("row", "max")])
    rows = rows.take(newest.column("row_max").sort())
    groups = rows.column("group").combine_chunks()
    return pa.table(
        {
            "customer": rows.column("customer"),
            "meter": rows.column("meter"),
            "period_start": rows.column("period_start"),
            "period_end": rows.column("period_end"),
            "group": _maps(groups),
            "group_key": groups,
            "value": _decimals(rows.column("value")),
            "usage": _decimals(rows.column("usage")),
            "events": rows.column("events"),
            "as_of": rows.column("as_of"),
            "version": rows.column("version"),
        }
    )


def _maps(groups: pa.StringArray) -> pa.Array:
    """Groups as maps, each distinct text decoded once."""
    distinct = groups.dictionary_encode()
    maps = [list(msgspec.json.decode(text).items()) for text in distinct.dictionary.to_pylist()]
    return pa.array(maps, _GROUP).take(distinct.indices)


def alert_rows(records: Iterable[Record]) -> pa.Table:
    """Rows of `alerts`."""
    return _model_rows(Alert, ALERTS, records)


def delivery_rows(records: Iterable[Record]) -> pa.Table:
    """Rows of `deliveries`."""
    return _model_rows(Delivery, DELIVERIES, records)


def _model_rows(model: type[BaseModel], schema: pa.Schema, records: Iterable[Record]) -> pa.Table:
    """Rows of JSON messages of `model`, whose fields are the columns of `schema`."""
    messages = [open_message(record, model) for record in records]
    columns = []
    for field in schema:
        cells = [getattr(message, field.name) for message in messages]
        columns.append(
            _decimals(pa.array(cells, pa.string()))
            if field.type == DECIMAL
            else pa.array(cells, field.type)
        )
    return pa.table(columns, schema=schema)


def rejection_rows(records: Iterable[Record]) -> pa.Table:
    """Rows of `rejections`: where, why, and the original bytes.

    One that was rejected for its arrival has the nearest that ClickHouse can hold; its message says
    which it was.
    """
    columns: dict[str, list[Any]] = {field.name: [] for field in REJECTIONS}
    for record in records:
        # The original's own headers come first and may have the same names: the last one is ours.
        headers = dict(record.headers)
        try:
            columns["source_partition"].append(int(headers[rejection.HEADER_PARTITION]))
            columns["source_offset"].append(int(headers[rejection.HEADER_OFFSET]))
            columns["source_index"].append(int(headers.get(rejection.HEADER_INDEX, b"0")))
            received_ms = int(headers[rejection.HEADER_RECEIVED_AT])
            columns["received_at"].append(min(max(received_ms, 0), _LAST_MS))
            columns["reason"].append(headers[rejection.HEADER_REASON])
            columns["message"].append(headers[rejection.HEADER_MESSAGE])
            columns["remedy"].append(headers[rejection.HEADER_REMEDY])
        except (KeyError, ValueError) as error:
            raise Stop(
                f"{record.topic}-{record.partition} at offset {record.offset} is no rejection of "
                f"Meterline: {error}.",
                remedy="Find the program that wrote it; only Meterline writes to this topic.",
            ) from None
        columns["original"].append(record.value or b"")
    return pa.table(columns, schema=REJECTIONS)


def _decimals(texts: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Plain decimal strings as exact decimals; never rounded."""
    try:
        return pc.cast(texts, DECIMAL)
    except pa.ArrowInvalid as error:
        raise Stop(
            f"A quantity does not fit ClickHouse's widest decimal, 67 digits and 9 places: {error}",
            remedy="Find the meter whose values are so large, and correct what its service sends.",
        ) from None
