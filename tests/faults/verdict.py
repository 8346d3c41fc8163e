"""What a whole deployment has come to, against the oracle: every difference as a sentence."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.commands.observe import observe
from pipeline.reconcile import reconcile, report
from pipeline.settings import Settings
from schemas.definitions import Definitions
from sinks.stripe.stand_in import StripeStandIn
from streams.follow import Follower
from tests.faults.feed import BEGIN, read_input
from tests.oracle import check
from tests.real.playing import observed


@dataclass(frozen=True)
class Verdict:
    """What was compared, and every difference."""

    ledger: Mapping[str, int]
    #: Events that Kafka has twice on usage.events.
    doubled: int
    totals: int
    alerts: int
    meter_events: int
    differences: list[str]


def judge(
    settings: Settings,
    definitions: Mapping[str, Any],
    follower: Follower,
    stripe: StripeStandIn,
    lines: list[bytes],
    directory: Path,
) -> Verdict:
    """Compare Kafka, ClickHouse and Stripe with each other and with brute force over `lines`.

    The stages have stopped, so that ClickHouse's directory is free. `directory` keeps what was
    observed, for whoever looks into a difference.
    """
    given = read_input(settings.kafka(), lines)
    seen = observe(settings, follower, stripe, len(given.lines))
    result = reconcile(seen, Definitions.model_validate(definitions))
    with (directory / "stripe.ndjson").open("w") as journal:
        for event in stripe.journal:
            journal.write(json.dumps(asdict(event), default=str) + "\n")
    outside = observed(directory, report(seen, result), BEGIN.isoformat())
    differences = check(dict(definitions), given.lines, outside)
    (directory / "events.ndjson").write_bytes(b"".join(line + b"\n" for line in given.lines))
    (directory / "observed.json").write_text(json.dumps(outside, default=str))
    return Verdict(
        ledger=Counter(outside["ledger"]),
        doubled=given.doubled,
        totals=len(outside["totals"]),
        alerts=len(outside["alerts"]),
        meter_events=len(outside["stripe"]),
        differences=[*given.complaints, *result.differences, *differences],
    )
