"""`meterline replay --verify` where the log has lost definitions, as tally counted there."""

from __future__ import annotations

import threading

import pytest

from pipeline.errors import Stop
from pipeline.ingest_file import read_ndjson
from pipeline.intake import Intake
from pipeline.record import Record
from schemas import topics
from schemas.definitions import Definitions
from streams import session
from streams.confluent import ConfluentClients
from tests.faults.deployment import DEFINITIONS
from tests.pipeline.commands.replaying import (
    SHARDS,
    all_lines,
    broker_with_topics,
    confirm,
    end_of,
    everything_counted,
    forget_before,
    intake,
    is_done,
    is_taken_in,
    replay,
    send,
    stages,
    tally,
    transactor,
)
from tests.streams.on_kafka import run_to_its_end, wait_until


@pytest.fixture(scope="module")
def lines() -> list[bytes]:
    return all_lines()


def lose_up_to_announcements(address: str, offsets: list[int]) -> None:
    """Of each shard's log all up to the announcement that is there, as a person has to confirm."""
    for shard, offset in enumerate(offsets):
        forget_before(address, topics.METERED, shard, offset + 1)
        confirm(address, topics.METERED, shard, offset + 1)


def test_it_counts_as_tally_did_by_definitions_that_a_log_announces_behind_the_packs(
    lines: list[bytes],
) -> None:
    cutter = Intake(Definitions.model_validate(DEFINITIONS), SHARDS)
    arrived = [
        Record(topics.EVENTS.name, 0, n, line.timestamp_ms or 0, line.key, line.value)
        for n, line in enumerate(read_ndjson(lines[:100]))
    ]
    packs = [each for each in cutter.step(arrived) if each.topic == topics.METERED.name]
    with broker_with_topics() as address:
        writer = ConfluentClients({"bootstrap.servers": address}).writer("intake", "a")
        writer.write([*packs, *cutter.announce()])
        with stages(address, tally(address)):
            wait_until(lambda: is_done(address), "everything is counted")
        code, output, error = replay(address, "--verify")
    assert (code, error) == (0, ""), output
    assert f"no difference in {len(packs)} packs" in output


def test_it_takes_in_by_definitions_that_only_the_state_of_tally_has_still(
    lines: list[bytes],
) -> None:
    with everything_counted(lines[:200]) as address:
        begins = [end_of(address, topics.METERED, shard) for shard in range(SHARDS)]
        send(address, lines[200:400])
        with stages(address, intake()):
            wait_until(lambda: is_taken_in(address), "all is taken in")
        lose_up_to_announcements(address, begins)
        code, output, error = replay(address, "--verify", "--from", "events")
    assert (code, error) == (0, ""), output


def test_it_verifies_what_was_counted_behind_lost_definitions_once_intake_announced_them_anew(
    lines: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_STATE_SECONDS", 0.5)
    document = DEFINITIONS | {"customers": DEFINITIONS["customers"][:-1]}
    with everything_counted(lines[:200]) as address:
        begins = [end_of(address, topics.METERED, shard) for shard in range(SHARDS)]
        send(address, lines[200:400])
        with stages(address, intake(document)):
            wait_until(lambda: is_taken_in(address), "all is taken in")
        lose_up_to_announcements(address, begins)
        stop = threading.Event()
        with pytest.raises(Stop, match=r"never announced.*Remedy: Restart intake"):
            run_to_its_end(transactor(address, *tally(address), stop), stop)
        assert replay(address, "--verify", "--from", "events")[0] == 2
        with stages(address, intake(document), tally(address)):
            wait_until(lambda: is_done(address), "everything is counted")
        for origin in ("metered", "events"):
            code, output, error = replay(address, "--verify", "--from", origin)
            assert (code, error) == (0, ""), output
