"""Kill a whole deployment again and again, and let the oracle compare: `python -m tests.faults`.

Everything runs as it does in production: every stage as a process of the command line, on a real
Kafka. Exit code 1 on any difference, and if a process ended by itself.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from tests.faults.campaign import Campaign, Options, Stuck
from tests.faults.campaign_report import write_report

#: More than this nobody reads.
_SHOWN_MAX = 40


def main() -> int:
    """Run as the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--kills", type=int, metavar="N", help="end after so many kill -9")
    length.add_argument("--duration", type=float, metavar="SECONDS", help="end after this time")
    parser.add_argument("--seed", type=int, default=1, help="of the events and of the schedule")
    parser.add_argument("--round", type=int, default=50, help="kills between two settlements")
    parser.add_argument("--rate", type=float, default=60.0, help="events a second")
    parser.add_argument("--gap", type=float, default=0.75, help="seconds between two faults")
    parser.add_argument("--brokers", type=int, choices=(1, 3), default=1, help="of the cluster")
    parser.add_argument("--report", type=Path, metavar="FILE.md", help="write what came of it")
    parser.add_argument("--keep", type=Path, metavar="DIRECTORY", help="keep all data and logs")
    parser.add_argument(
        "--plant-a-difference",
        action="store_true",
        help="tell the oracle of one event that was never sent: must end with exit code 1",
    )
    chosen = parser.parse_args()
    options = Options(
        seed=chosen.seed,
        kills=chosen.kills,
        duration_seconds=chosen.duration,
        kills_a_round=chosen.round,
        per_second=chosen.rate,
        gap_seconds=chosen.gap,
        brokers=chosen.brokers,
        plants_a_difference=chosen.plant_a_difference,
    )
    with ExitStack() as exits:
        directory = chosen.keep
        if directory is None:
            temporary = tempfile.TemporaryDirectory(prefix="meterline-faults-")
            directory = Path(exits.enter_context(temporary))
        directory.mkdir(parents=True, exist_ok=True)
        campaign = exits.enter_context(Campaign(options, directory.absolute(), _say))
        try:
            verdict = campaign.run()
        except Stuck as reason:
            _say(f"Stuck: {reason}.")
            return 1
        seconds = campaign.seconds
    if chosen.report is not None:
        chosen.report.write_text(write_report(options, campaign.tally, verdict, seconds))
    for sentence in (*verdict.differences[:_SHOWN_MAX], *campaign.tally.complaints):
        _say(sentence)
    _say(
        f"{campaign.kills} kills, {campaign.tally.faults.total()} faults, "
        f"{verdict.ledger['sent']} events, {len(verdict.differences)} differences, "
        f"{len(campaign.tally.complaints)} processes that ended by themselves."
    )
    return 1 if verdict.differences or campaign.tally.complaints else 0


def _say(line: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
