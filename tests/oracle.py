"""The oracle: recomputes by brute force what must be seen outside, and lists every difference.

    python tests/oracle.py --config meterline.yaml --input events.ndjson --observed observed.json

It shares no code with the product: only the standard library and a YAML parser. `observed.json` is
what was finally seen outside:

    ledger      {"sent": 0, "accepted": 0, "duplicate": 0, "conflict": 0, "rejected": 0, "late": 0,
                 "unknown": 0}
    events      [{customer, type, source, id, time, data}], `data` as JSON text
    set_aside   [{status, source, id, source_partition, source_offset}]
    rejections  [{...}], one for each rejected line
    totals      [{customer, meter, period_start, group, value}]
    alerts      [{customer, meter, period_start, threshold, value}]
    stripe      [{stripe_customer_id, event_name, value, timestamp, identifier}], the journal
    report      {ledger, totals, alerts, stripe, reconciled}
    quarantine  optional: [{stripe_customer_id, event_name, period_start, value}], what Stripe could
                not take for its age
    now         optional: when lines without a valid `receivedat` arrived, RFC 3339

Lines are judged in their order; what was read must be in the order of one partition.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path

import yaml

from tests.oracle_differences import differences
from tests.oracle_lines import Row
from tests.oracle_rules import expect


def check(
    definitions: Row,
    lines: Iterable[bytes],
    observed: Row,
    now: str | None = None,
) -> list[str]:
    """Every difference between what was observed and what must be, as sentences; [] if none.

    Raises:
        Undecidable: when the input has no single right outcome.
    """
    # Some hostile input nests deeper than usual, and the product may have accepted it.
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(5_000)
    try:
        return _check(definitions, lines, observed, now)
    finally:
        sys.setrecursionlimit(usual)


def _check(definitions: Row, lines: Iterable[bytes], observed: Row, now: str | None) -> list[str]:
    seen = frozenset(
        (row["source"], row["id"])
        for section in ("events", "set_aside")
        for row in observed.get(section, [])
    )
    now = now or observed.get("now")
    expected = expect(definitions, lines, now, seen)
    return differences(definitions, expected, observed)


class _ExactLoader(yaml.SafeLoader):
    """YAML whose decimals are read from their text."""


_ExactLoader.add_constructor(
    "tag:yaml.org,2002:float",
    lambda _, node: Decimal(str(node.value).replace("_", "")),
)


def load_definitions(text: str) -> Row:
    """The content of a `meterline.yaml`."""
    definitions: Row = yaml.load(text, _ExactLoader)
    return {**definitions, "meters": definitions.get("meters") or []}


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints every difference. Exit code 1 if there is one."""
    parser = argparse.ArgumentParser(description="Compare what was seen outside with what must be.")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--observed", type=Path, required=True)
    parser.add_argument("--now", help="arrival of lines without receivedat, RFC 3339")
    options = parser.parse_args(arguments)
    with options.input.open("rb") as lines:
        found = check(
            load_definitions(options.config.read_text(encoding="utf-8")),
            lines,
            json.loads(options.observed.read_text(encoding="utf-8")),
            options.now,
        )
    for difference in found:
        print(difference)
    print(f"{len(found)} differences")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
