"""What was counted is published: totals by group, and alerts in the order of the log."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from pipeline import total_columns
from pipeline.batch import Batch
from pipeline.count import Counting
from pipeline.cross import Crosser
from pipeline.limits import Limits
from pipeline.record import Outgoing
from pipeline.totals import Totals
from schemas.alert import Alert
from schemas.definitions import Definitions
from schemas.frame import Kind, seal, unseal
from schemas.topics import LARGE_RECORDS
from schemas.total import TOTAL_COLUMNS
from tests.pipeline.usage_log import event, records, take_in

NOVEMBER = datetime(2026, 11, 1, tzinfo=UTC)
DECEMBER = datetime(2026, 12, 1, tzinfo=UTC)
NOVEMBER_20 = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)

DEFINITIONS = Definitions.model_validate(
    {
        "meters": [
            {
                "slug": "by_model",
                "event_type": "llm",
                "aggregation": "sum",
                "value": "$.n",
                "group_by": {"z": "$.model", "a": "$.region"},
            },
            {"slug": "all", "event_type": "llm", "aggregation": "max", "value": "$.n"},
        ],
        "plans": [
            {
                "slug": "p",
                "limits": [
                    {"meter": "by_model", "limit": 10, "thresholds": ["50%", "100%"]},
                    {"meter": "all", "limit": 4, "thresholds": ["100%"]},
                ],
            }
        ],
        "default_plan": "p",
    }
)


def count(*values: bytes, totals: Totals | None = None) -> tuple[Counting, list[Outgoing]]:
    """Count events, each in a pack of its own, by all meters in the order of their definition."""
    packs = [take_in([record], DEFINITIONS, 1)[0][0][1] for record in records(values)]
    batch = Batch(packs)
    totals = totals if totals is not None else Totals()
    crosser = Crosser(totals, Limits(DEFINITIONS))
    counting = Counting(totals, crosser)
    counting.begin(batch, np.zeros(len(packs), dtype=np.int64))
    for meter in DEFINITIONS.meters:
        counting.count(batch, meter, np.arange(len(packs)))
    alerts = list(crosser.alerts(batch))
    assert not list(crosser.alerts(batch))
    return counting, alerts


def published(counting: Counting, version: int = 7) -> list[dict[str, Any]]:
    """The rows of all frames."""
    rows: list[dict[str, Any]] = []
    for share, sealed in counting.frames(counting.changed, {0: version}):
        frame = unseal(sealed)
        assert share == 0
        assert frame.kind is Kind.TOTALS
        assert frame.header == {"version": version}
        (table,) = frame.parts
        assert table.schema == TOTAL_COLUMNS
        rows += table.to_pylist()
    return rows


def used(n: object, **data: object) -> bytes:
    return event(f"{n}{data}", data={"n": n, **data})


def test_totals_are_published_by_group_with_the_usage_over_all_groups() -> None:
    counting, _ = count(
        used("2.5", model="m"), used(-1, model="m", region="eu"), used(3, model="m")
    )
    common = {
        "customer": "cus_1",
        "period_start": NOVEMBER,
        "period_end": DECEMBER,
        "as_of": NOVEMBER_20,
    }
    by_model = common | {"meter": "by_model", "usage": "4.5"}
    assert published(counting) == [
        by_model | {"group": '{"a":"","z":"m"}', "value": "5.5", "events": 2},
        by_model | {"group": '{"a":"eu","z":"m"}', "value": "-1", "events": 1},
        common | {"meter": "all", "group": "{}", "value": "3", "usage": "3", "events": 3},
    ]


def test_only_what_changed_is_published() -> None:
    totals = Totals()
    count(used(1, model="m"), used(2, model="x"), totals=totals)
    rows = published(count(used(4, model="x"), totals=totals)[0])
    assert [(row["group"], row["value"], row["usage"]) for row in rows] == [
        ('{"a":"","z":"x"}', "6", "7"),
        ("{}", "4", "4"),
    ]


@pytest.mark.parametrize("rows_max", [1, 2, 100])
def test_many_totals_are_spread_over_several_frames(
    rows_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting, _ = count(*[used(n, model=f"m{n}") for n in range(5)])
    whole = published(counting)
    monkeypatch.setattr(total_columns, "_ROWS_MAX", rows_max)
    assert len(list(counting.frames(counting.changed, {0: 7}))) == -(-len(whole) // rows_max)
    assert published(counting) == whole


@pytest.mark.parametrize(
    "text", ["\x01" * 170_000, "\U0001f600" * 80_000], ids=["six bytes", "four bytes"]
)
def test_no_record_of_totals_is_too_large_however_many_bytes_a_character_takes(text: str) -> None:
    totals = Totals()
    events = [event(str(n), data={"n": n, "model": f"{n}{text}"}) for n in range(40)]
    counting, _ = count(*events, totals=totals)
    frames = [frame for _, frame in counting.frames(counting.changed, {0: 7})]
    columns = total_columns.kept(totals, np.arange(len(totals)))
    frames += [seal(Kind.SEGMENT, {}, [part]) for part in columns.parts()]
    assert max(map(len, frames)) < int(LARGE_RECORDS["max.message.bytes"]) / 2


def test_names_that_could_be_mixed_up_stay_apart() -> None:
    rows = published(count(used(1, model="a", region=""), used(2, model="", region="a"))[0])
    assert [(row["group"], row["value"]) for row in rows[:2]] == [
        ('{"a":"","z":"a"}', "1"),
        ('{"a":"a","z":""}', "2"),
    ]


def test_alerts_come_in_the_order_of_the_log_then_of_meters_then_of_thresholds() -> None:
    _, outgoing = count(used(5), used("1.5"), used(8))
    alerts = [Alert.model_validate_json(each.value or b"") for each in outgoing]
    assert [(a.meter, a.threshold, a.value, a.event_id) for a in alerts] == [
        ("all", "100%", "5", "5{}"),
        ("by_model", "50%", "5", "5{}"),
        ("by_model", "100%", "14.5", "8{}"),
    ]
    assert {(a.period_start, a.period_end, a.crossed_at) for a in alerts} == {
        (NOVEMBER, DECEMBER, NOVEMBER_20)
    }
    assert [each.key for each in outgoing] == [b"cus_1"] * 3
