"""docs/operating.md: the table of processes, from which rights are given, is what they do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from schemas import topics
from sinks.clickhouse.write import ClickHouseSink
from sinks.stripe.deliver import StripeSink
from streams.bill import BillStage
from streams.intake import IntakeStage
from streams.tally import TallyStage

PAGE = (Path(__file__).parents[2] / "docs/operating.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("stage", "reads"),
    [
        *((s.name, (s.input_topic, s.state_topic)) for s in (IntakeStage, TallyStage, BillStage)),
        ("clickhouse", ClickHouseSink.topics),
        ("stripe", StripeSink.topics),
        ("watch", (topics.TOTALS.name, topics.FORECASTS.name)),
    ],
)
def test_a_process_reads_the_topics_that_are_named(stage: str, reads: Sequence[str | None]) -> None:
    named = re.search(rf"^\| {stage} \| (.+?) \|", PAGE, re.MULTILINE)
    assert named is not None
    assert named[1].split(", ") == [topic for topic in reads if topic]
