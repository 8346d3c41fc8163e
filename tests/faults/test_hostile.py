"""Hostile records in the shard log and in tally's changelog: a clear stop, never a wrong total.

Every stage is the real one on a real broker. A stop names the place, nothing of the batch becomes
visible, and the group's positions stay before what cannot be read.
"""

from __future__ import annotations

import threading

import pytest
from confluent_kafka import Consumer, TopicPartition

from pipeline import shard as shard_module
from pipeline import total_columns
from pipeline.errors import Stop
from pipeline.open_frame import open_frame
from pipeline.record import Outgoing
from pipeline.shard import Restore, snapshot
from schemas import topics
from schemas.frame import Kind, seal
from streams import session
from streams.confluent import ConfluentClients
from streams.stage import group_of
from streams.tally import TallyStage
from streams.transact import Transactor
from tests.faults.hostile import (
    BAD,
    DEFINITIONS,
    FRAMES,
    SHARDS,
    counted,
    everything,
    publish,
    record_of,
    require,
    stop_of,
    tampered,
)
from tests.streams.on_kafka import run_to_its_end

# Tally and the shard log


@pytest.mark.parametrize("how", FRAMES)
def test_tally_stops_at_what_is_no_record_of_the_shard_log(address: str, how: str) -> None:
    log, offset = tampered(counted()[topics.METERED.name], how)
    publish(address, log)
    place = rf"usage\.metered-{BAD} at offset {offset}\b"
    require(stop_of(address, TallyStage(SHARDS)), place, FRAMES[how][1])


def test_tally_stops_at_a_pack_of_another_shard(address: str) -> None:
    log = counted()[topics.METERED.name]
    stray = next(each for each in reversed(log) if each.partition != BAD)
    *_, (_, offset) = publish(address, [*log, Outgoing(stray.topic, stray.value, partition=BAD)])
    stop = stop_of(address, TallyStage(SHARDS))
    require(stop, rf"usage\.metered-{BAD} at offset \d+ to {offset} has customer 'cus_\d+'")
    require(stop, f"belongs to shard 0 of {SHARDS}")


def test_tally_stops_at_a_log_that_was_filled_for_fewer_shards(address: str) -> None:
    publish(address, counted()[topics.METERED.name])
    require(stop_of(address, TallyStage(2 * SHARDS)), "belongs to shard [23] of 4")


def test_tally_stops_at_a_pack_cut_by_definitions_that_its_shard_never_got(address: str) -> None:
    log = counted()[topics.METERED.name]
    announced = [e for e in log if open_frame(record_of(e)).kind is Kind.DEFINITIONS]
    assert len(announced) == SHARDS
    publish(address, [each for each in log if each not in announced or each.partition != BAD])
    stop = stop_of(address, TallyStage(SHARDS))
    require(stop, rf"usage\.metered-{BAD} at offset 0", DEFINITIONS.version, "never announced")


def test_tally_stops_at_definitions_from_the_future(address: str) -> None:
    log = counted()[topics.METERED.name]
    document = DEFINITIONS.model_dump(mode="json") | {"currencies": ["EUR"]}
    header = {"version": "newer", "document": document}
    newer = Outgoing(topics.METERED.name, seal(Kind.DEFINITIONS, header), partition=BAD)
    *_, (_, offset) = publish(address, [*log, newer])
    stop = stop_of(address, TallyStage(SHARDS))
    require(stop, rf"usage\.metered-{BAD} at offset {offset}", "currencies", "upgrade")


# Tally's changelog


@pytest.mark.parametrize("how", FRAMES)
def test_tally_stops_at_a_damaged_segment(address: str, how: str) -> None:
    written = counted()
    state, offset = tampered(written[topics.TALLY_STATE.name], how)
    publish(address, written[topics.METERED.name] + state)
    place = rf"usage\.tally\.state-{BAD} at offset {offset}\b"
    require(stop_of(address, TallyStage(SHARDS)), place, FRAMES[how][1])


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_tally_stops_where_segments_are_missing(address: str, lost: int) -> None:
    """The first of them, or one in the middle: identities would be forgotten."""
    written = counted()
    state = written[topics.TALLY_STATE.name]
    of_shard = [each for each in state if each.partition == BAD]
    assert lost < len(of_shard) - 1
    publish(address, written[topics.METERED.name])
    publish(address, [each for each in state if each is not of_shard[lost]])
    stop = stop_of(address, TallyStage(SHARDS))
    require(stop, rf"usage\.tally\.state-{BAD} lacks a segment", f"come to offset {lost}\\b")


@pytest.mark.parametrize("lost", ["first", "second", "last"])
def test_tally_stops_at_a_snapshot_that_lacks_a_part(
    address: str, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = counted()
    state = [each for each in written[topics.TALLY_STATE.name] if each.partition == BAD]
    shard = Restore(open_frame(record_of(each)) for each in state).shard()
    monkeypatch.setattr(shard_module, "_IDS_MAX", 10)
    monkeypatch.setattr(total_columns, "_ROWS_MAX", 10)
    frames = list(snapshot(shard))
    assert len(frames) > 3
    del frames[{"first": 0, "second": 1, "last": -1}[lost]]
    parts = [Outgoing(topics.TALLY_STATE.name, frame, partition=BAD) for frame in frames]
    publish(address, written[topics.METERED.name] + state + parts)
    said = "ends in the middle" if lost == "last" else "lacks a segment"
    require(stop_of(address, TallyStage(SHARDS)), rf"usage\.tally\.state-{BAD} {said}")


def test_tally_stops_at_a_changelog_of_another_number_of_shards(address: str) -> None:
    of_four = counted(shards=4)[topics.TALLY_STATE.name]
    publish(address, counted()[topics.METERED.name])
    publish(address, [each for each in of_four if each.partition == BAD])
    stop = stop_of(address, TallyStage(SHARDS))
    require(stop, rf"usage\.tally\.state-{BAD} has the state of shard {BAD} of 4", "shard 1 of 2")


def test_tally_stops_at_a_changelog_of_another_shard(address: str) -> None:
    written = counted()
    publish(address, written[topics.METERED.name])
    strays = [each for each in written[topics.TALLY_STATE.name] if each.partition == 0]
    publish(address, [Outgoing(each.topic, each.value, partition=BAD) for each in strays])
    require(stop_of(address, TallyStage(SHARDS)), rf"state-{BAD} has the state of shard 0 of 2")


def test_tally_stops_at_a_changelog_that_goes_on_with_another_shard(address: str) -> None:
    written = counted()
    publish(address, written[topics.METERED.name])
    state = written[topics.TALLY_STATE.name]
    ours, others = ([e for e in state if e.partition == shard] for shard in (BAD, 0))
    mixed = [ours[0], Outgoing(others[1].topic, others[1].value, partition=BAD)]
    publish(address, mixed)
    require(stop_of(address, TallyStage(SHARDS)), "goes on with a segment of shard 0")


def test_tally_stops_where_its_changelog_ends_before_its_positions(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_STATE_SECONDS", 0.3)
    written = counted()
    publish(address, written[topics.METERED.name])
    of_shard = [e for e in written[topics.TALLY_STATE.name] if e.partition == BAD]
    publish(address, of_shard[:-1])
    stage = TallyStage(SHARDS)
    # A group that nobody has joined yet.
    stage.name = "tally-that-had-come-far"
    group = Consumer({"bootstrap.servers": address, "group.id": group_of(stage.name)})
    reached = [TopicPartition(topics.METERED.name, BAD, len(of_shard))]
    group.commit(offsets=reached, asynchronous=False)
    group.close()
    clients = ConfluentClients({"bootstrap.servers": address, "log_level": "0"})
    before, stop = everything(address), threading.Event()
    with pytest.raises(Stop) as stopped:
        run_to_its_end(Transactor(stage, clients, instance="a", stop=stop), stop)
    require(stopped.value, f"usage.metered {BAD} ends at", r"Restore usage\.tally\.state")
    assert everything(address) == before
