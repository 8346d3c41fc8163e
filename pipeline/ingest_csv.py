"""A CSV file and a mapping become usage events to send."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import Stop
from pipeline.ingest_file import Line, arrival_ms, customer_key


@dataclass(frozen=True)
class CsvMapping:
    """How a CSV row becomes an event: `time`, `subject`, `data.tokens`, … → column or constant.

    Targets are CloudEvents attributes, `receivedat`, or `data.<field>`. Where `id` is neither
    mapped nor set, it is the row's number, and such a `source` the name of the file, so that
    sending a file twice counts it once. `utc` says that times without an offset are UTC.
    """

    name: str
    columns: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, str] = field(default_factory=dict)
    utc: bool = False

    @property
    def identifies_by_file(self) -> bool:
        """Whether identities are the file's name and the rows' numbers."""
        return not {"id", "source"} & {*self.columns, *self.constants}


_TARGET = re.compile(r"[a-z0-9]+|data\.\S.*")
_INTEGER = re.compile(r"0|-?[1-9]\d{0,37}", re.ASCII)
_NAIVE = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d(?:\.\d+)?)", re.ASCII)


def parse_mapping(
    name: str, maps: Sequence[str], constants: Sequence[str], utc: bool = False
) -> CsvMapping:
    """The mapping that options such as `time=TIMESTAMP` and `type=llm.request` spell.

    Raises:
        Stop: naming all faults at once.
    """
    pairs = [option.partition("=") for option in (*maps, *constants)]
    faults = [
        f"{target + sign + rest!r} is not target=value, such as data.tokens=ContextTokens"
        for target, sign, rest in pairs
        if not sign or not _TARGET.fullmatch(target) or target == "data"
    ]
    targets = [target for target, _, _ in pairs]
    faults += [f"{target} is set twice" for target in {*targets} if targets.count(target) > 1]
    faults += [
        f"{target} is neither mapped nor set"
        for target in ("type", "subject", "time")
        if target not in targets
    ]
    if faults:
        raise Stop(
            f"The CSV mapping is faulty: {'; '.join(sorted(faults))}.",
            remedy="Map columns with --map target=COLUMN and set constants with --set target=text.",
        )
    values = {target: rest for target, _, rest in pairs}
    return CsvMapping(
        name,
        {target: values[target] for target in targets[: len(maps)]},
        {target: values[target] for target in targets[len(maps) :]},
        utc,
    )


def read_csv(lines: Iterable[bytes], mapping: CsvMapping) -> Iterator[Line]:
    """One `Line` for each row; the first row names the columns, and an empty cell sets nothing.

    In `data`, integers become JSON numbers and everything else a text, letter by letter: decimals
    stay exact, and a leading zero is kept.

    Raises:
        Stop: at an empty file, a column that is not there, a row that does not fit the header,
            a quote that is not closed, a cell longer than `csv.field_size_limit` allows, bytes
            that are not UTF-8, or a time without an offset. What was sent before may be sent
            again: rows keep their ids.
    """
    rows = _rows(lines)
    header = next(rows, None)
    if not header:
        raise Stop(
            f"The CSV file {'is empty' if header is None else 'begins with an empty line'}.",
            remedy="Its first line should name the columns.",
        )
    missing = sorted({*mapping.columns.values()} - {*header})
    if missing:
        raise Stop(
            f"The CSV file has no column {', '.join(missing)}; it has {', '.join(header)}.",
            remedy="Name the columns as the first line of the file spells them.",
        )
    repeated = sorted({name for name in mapping.columns.values() if header.count(name) > 1})
    if repeated:
        raise Stop(
            f"The CSV file has several columns named {', '.join(repeated)}.",
            remedy="Give each mapped column a name of its own.",
        )
    at = {target: header.index(column) for target, column in mapping.columns.items()}
    for number, row in enumerate(rows, start=1):
        if not row:
            continue
        if len(row) != len(header):
            raise Stop(
                f"Row {number} of the CSV file has {len(row)} cells, its header {len(header)}.",
                remedy="Correct the row, quoting cells that hold commas, and send the file again.",
            )
        cells = {"id": str(number), "source": mapping.name, **mapping.constants}
        cells |= {target: row[column] for target, column in at.items()}
        yield _event(number, {name: cell for name, cell in cells.items() if cell}, mapping.utc)


def _event(number: int, cells: dict[str, str], utc: bool) -> Line:
    event: dict[str, Any] = {"specversion": "1.0"}
    data: dict[str, Any] = {}
    for target, cell in cells.items():
        if target in ("time", "receivedat"):
            event[target] = _with_offset(cell, number, utc)
        elif target.startswith("data."):
            data[target.removeprefix("data.")] = int(cell) if _INTEGER.fullmatch(cell) else cell
        else:
            event[target] = cell
    timestamp_ms = arrival_ms(event.get("receivedat"))
    if timestamp_ms is not None:
        del event["receivedat"]
    value = json.dumps(event | {"data": data}, ensure_ascii=False, separators=(",", ":"))
    return Line(customer_key(event.get("subject")), value.encode(), timestamp_ms)


def _with_offset(cell: str, number: int, utc: bool) -> str:
    naive = _NAIVE.fullmatch(cell)
    if naive is None:
        return cell
    if not utc:
        raise Stop(
            f"Row {number} of the CSV file has the time {cell!r}, without an offset.",
            remedy="If the file's times are UTC, say so with --utc; else write their offset.",
        )
    return f"{naive[1]}T{naive[2]}Z"


def _rows(lines: Iterable[bytes]) -> Iterator[list[str]]:
    rows = csv.reader(_texts(lines), strict=True)
    # Where a quote was left open, the line that is being read is far below.
    begins = 1
    try:
        for row in rows:
            begins = rows.line_num + 1
            yield row
    except csv.Error as error:
        raise Stop(
            f"The CSV file cannot be read, in the row that begins in line {begins}: {error}.",
            remedy="Quote cells with double quotes, double those inside, close each, cut cells "
            "that are longer than any event, and send the file again.",
        ) from None


def _texts(lines: Iterable[bytes]) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise Stop(
                f"Line {number} of the CSV file is not UTF-8.",
                remedy="Convert the file to UTF-8 and send it again.",
            ) from None
