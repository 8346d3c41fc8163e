"""`meterline replay --verify` beside the real intake and tally on a real Kafka."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pytest
from confluent_kafka.admin import AdminClient, NewPartitions  # type: ignore[attr-defined]

from pipeline.generate import generate
from pipeline.open_frame import open_frame
from pipeline.record import Outgoing
from schemas import topics
from schemas.alert import Alert
from schemas.frame import Frame, Kind, seal
from schemas.total import TOTAL_COLUMNS, read_totals
from streams.confluent import ConfluentClients
from tests.pipeline.commands.replaying import (
    SHARDS,
    SHARES,
    all_lines,
    confirm,
    end_of,
    everything_counted,
    forget_before,
    forget_positions,
    is_done,
    replay,
    send,
    stages,
)
from tests.pipeline.usage_log import utc
from tests.streams.on_kafka import (
    WAIT_SECONDS_MAX,
    open_transaction,
    publish,
    read,
    wait_until,
)


@pytest.fixture(scope="module")
def lines() -> list[bytes]:
    return all_lines()


@pytest.fixture(scope="module")
def counted(lines: list[bytes]) -> Iterator[str]:
    """For tests that leave everything as it is, and at last for one that plants differences."""
    with everything_counted(lines) as address:
        yield address


@pytest.fixture(scope="module")
def worn(lines: list[bytes]) -> Iterator[str]:
    """For tests that lose more and more of it."""
    with everything_counted(lines) as address:
        yield address


def frames(address: str, topic: topics.Topic, shard: int) -> list[Frame]:
    return [open_frame(r) for r in read(address, topic.name) if r.partition == shard]


def resealed(frame: Frame) -> bytes:
    return seal(frame.kind, frame.header, frame.parts)


def test_it_verifies_while_the_stages_count_and_afterwards_and_writes_nothing(
    counted: str, lines: list[bytes]
) -> None:
    more = list(generate(6_000, 20, 8, utc(2026, 11, 20, 13), shares=SHARES))
    with stages(counted):
        sender = threading.Thread(target=send, args=(counted, more))
        sender.start()
        beside = [
            replay(counted, "--verify", "--from", origin) for origin in ("metered", "events") * 2
        ]
        sender.join()
        wait_until(lambda: is_done(counted), "everything is counted")
    for code, output, error in beside:
        assert (code, error) == (0, ""), output
    ends = [end_of(counted, topic, 0) for topic in topics.CATALOGUE]
    code, output, _ = replay(counted, "--verify", "--json", "--from", "events")
    report = json.loads(output)
    assert code == 0
    assert report["verified"] is True
    alerts = [Alert.model_validate_json(r.value or b"") for r in read(counted, topics.ALERTS.name)]
    named = {
        (total.customer, total.meter, total.period_start, tuple(total.group.items()))
        for shard in range(SHARDS)
        for frame in frames(counted, topics.TOTALS, shard)
        for total in read_totals(frame)
    }
    rejected = len(read(counted, topics.REJECTED.name))
    assert report["compared"]["shards"] == SHARDS
    assert report["compared"]["events"] == len(lines) + len(more) - rejected
    assert report["compared"]["records"] == {"events": len(lines) + len(more), "uncompared": 0}
    assert report["compared"]["totals"] == len(named)
    assert report["compared"]["alerts"] == len(alerts)
    assert [end_of(counted, topic, 0) for topic in topics.CATALOGUE] == ends


def test_it_verifies_while_a_producer_leaves_a_transaction_open_on_usage_events(
    counted: str,
) -> None:
    producer = open_transaction(counted, topics.EVENTS.name)
    try:
        code, output, error = replay(counted, "--verify", "--from", "events")
    finally:
        producer.abort_transaction(WAIT_SECONDS_MAX)
    assert (code, error) == (0, ""), output


def plant(address: str) -> dict[str, tuple[str, str]]:
    """Tamper with every live topic; name → (kind, a part of the sentence that tells it)."""
    kept = {shard: frames(address, topics.TOTALS, shard) for shard in range(SHARDS)}
    wrong = kept[0][-1].parts[0].to_pydict()
    wrong["value"][0] = "31337"
    batch = pa.RecordBatch.from_pydict(wrong, schema=TOTAL_COLUMNS)
    # A total that is wrong, and newer than all others for ever.
    newer = Frame(Kind.TOTALS, {"version": 10**9}, (batch,))
    # One that is wrong, and newer than the right one.
    wrong_too = kept[1][-1].parts[0].to_pydict()
    wrong_too["value"][0] = "31337"
    batch = pa.RecordBatch.from_pydict(wrong_too, schema=TOTAL_COLUMNS)
    # In the version of definitions that tally has confirmed, and that count for nothing.
    at = end_of(address, topics.METERED, 1)
    replaced = Frame(Kind.TOTALS, {"version": at}, (batch,))
    publish(address, topics.METERED.name, [(1, resealed(frames(address, topics.METERED, 1)[0]))])
    confirm(address, topics.METERED, 1, at + 1)
    publish(address, topics.TOTALS.name, [(0, resealed(newer)), (1, resealed(replaced))])
    alerts = read(address, topics.ALERTS.name)
    publish(address, topics.ALERTS.name, [(alerts[0].partition, alerts[0].value or b"")])
    other = Alert.model_validate_json(alerts[1].value or b"").model_copy(
        update={"threshold": "99%", "event_id": "never-sent"}
    )
    publish(address, topics.ALERTS.name, [(0, other.model_dump_json().encode())])
    # The first alert of a partition disappears.
    gone = next(r for r in alerts if r.partition != alerts[0].partition)
    forget_before(address, topics.ALERTS, gone.partition, gone.offset + 1)
    decisions = frames(address, topics.DECISIONS, 2)
    publish(address, topics.DECISIONS.name, [(2, resealed(decisions[0]))])
    # The stage says that it has decided one more pack, and has not.
    pack = frames(address, topics.METERED, 3)[-1]
    at = end_of(address, topics.METERED, 3)
    publish(address, topics.METERED.name, [(3, resealed(pack))])
    confirm(address, topics.METERED, 3, at + 1)
    doubled, lost = (Alert.model_validate_json(r.value or b"") for r in (alerts[0], gone))
    return {
        "a total from nowhere": ("total", "is there in version 1000000000, which no pack has"),
        "whose": ("total", f"of customer {wrong['customer'][0]}, "),
        "its value": ("total", "value is 31337, should be"),
        "a doubled alert": ("alert", f"of customer {doubled.customer}, meter {doubled.meter}"),
        "how often": ("alert", f"the threshold {doubled.threshold} was announced 2 times."),
        "an invented alert": ("alert", "threshold 99% was announced, but no event in the log"),
        "a missing alert": (
            "alert",
            f"threshold {lost.threshold} was crossed, but the alert is missing on usage.alerts.",
        ),
        "a doubled decision": (
            "decision",
            f"(shard 2, pack at offset {decisions[0].header['pack_offset']}): is there again",
        ),
        "a missing decision": (
            "decision",
            f"(shard 3, pack at offset {at}): is missing on usage.decisions.",
        ),
        "a doubled pack": ("event", "was packed before, in shard 3."),
    }


def test_it_tells_every_planted_difference_and_ends_with_1(counted: str) -> None:
    expected = plant(counted)
    code, output, error = replay(counted, "--verify", "--from", "events", "--limit", "1000")
    assert (code, error) == (1, "")
    told = [line for line in output.splitlines() if line.startswith("✗ ")]
    for name, (kind, sentence) in expected.items():
        assert any(f"✗ {kind}" in line and sentence in line for line in told), (name, output)
    assert f"✗ {len(told) - 1} differences (" in told[-1]

    code, output, _ = replay(counted, "--verify", "--limit", "2")
    assert code == 1
    told = [line for line in output.splitlines() if line.startswith("✗ ")]
    assert len(told) == 3
    assert "more, see --limit." in output

    code, output, _ = replay(counted, "--verify", "--json", "--limit", "1000")
    report: dict[str, Any] = json.loads(output)
    assert code == 1
    assert report["verified"] is False
    assert (
        report["differences"]
        == len(report["listed"])
        == sum(report["differences_by_kind"].values())
    )
    assert {each["what"] for each in report["listed"]} == {"total", "alert", "decision"}
    assert all(each["sentence"] and "shard" in each for each in report["listed"])


def test_it_verifies_what_retention_has_left_and_says_from_where(worn: str) -> None:
    middle = end_of(worn, topics.METERED, 1) // 2
    forget_before(worn, topics.METERED, 1, middle)
    code, output, error = replay(worn, "--verify", "--from", "events")
    assert (code, error) == (0, ""), output
    assert "Shard 1: verified from offset " in output
    assert f"deleted the log before {middle}" in output
    assert "events' packs were not compared" in output
    forget_positions(worn)
    code, output, error = replay(worn, "--verify")
    assert (code, error) == (0, ""), output
    assert f" alerts of {SHARDS} shards (" in output


def test_a_shard_of_which_only_markers_are_left_is_nothing_to_verify(lines: list[bytes]) -> None:
    with everything_counted(lines) as address:
        end = end_of(address, topics.METERED, 1)
        clients = ConfluentClients({"bootstrap.servers": address})
        writer = clients.transactional_writer("aborted", "a")
        writer.fence()
        writer.begin()
        writer.write([Outgoing(topics.METERED.name, b"", partition=1)])
        writer.abort()
        # Tally moved on past all that, and retention has left the last marker.
        confirm(address, topics.METERED, 1, end + 2)
        forget_before(address, topics.METERED, 1, end + 1)
        code, output, error = replay(address, "--verify")
    assert (code, error) == (0, ""), output
    assert "Shard 1: retention deleted all of the log that tally has counted" in output


def test_it_stops_at_whatever_it_cannot_read(worn: str) -> None:
    """Each fault lies where it is met before those that were there already."""
    totals = resealed(frames(worn, topics.TOTALS, 3)[-1])
    pack = resealed(frames(worn, topics.METERED, 2)[-1])
    flipped = pack[:-1] + bytes([pack[-1] ^ 1])
    last = end_of(worn, topics.METERED, 3)
    end = end_of(worn, topics.METERED, 0)

    def write(topic: topics.Topic, shard: int, value: bytes) -> Callable[[], None]:
        return lambda: publish(worn, topic.name, [(shard, value)])

    def lose_the_state() -> None:
        # It is needed where the log does not begin with its first record any more.
        forget_before(worn, topics.METERED, 1, end_of(worn, topics.METERED, 1) // 2)
        state = topics.TALLY_STATE
        forget_before(worn, state, 1, end_of(worn, state, 1))

    def grow() -> None:
        admin = AdminClient({"bootstrap.servers": worn})
        grown = admin.create_partitions([NewPartitions(topics.TALLY_STATE.name, SHARDS + 1)])
        grown[topics.TALLY_STATE.name].result(WAIT_SECONDS_MAX)

    forget_positions(worn)
    write(topics.METERED, 3, flipped)()
    assert replay(worn, "--verify")[0] == 0, "tally has not been there yet"
    faults: list[tuple[Callable[[], None], str]] = [
        (
            lambda: confirm(worn, topics.METERED, 3, last + 1),
            f"usage.metered-3 at offset {last}: checksum mismatch.",
        ),
        (
            write(topics.TOTALS, 2, totals[:2] + b"\2" + totals[3:]),
            "frame version 2, this program reads 1.",
        ),
        (write(topics.TOTALS, 1, totals[:-9]), "checksum mismatch."),
        (lose_the_state, "The log of shard 1 begins at offset "),
        (write(topics.TOTALS, 0, b"hello"), "not a Meterline frame."),
        (write(topics.DECISIONS, 0, totals), "carries totals, which does not belong there."),
        (
            lambda: confirm(worn, topics.METERED, 0, end + 5),
            f"The log of shard 0 ends at {end}, but tally has counted up to {end + 5}.",
        ),
        (write(topics.ALERTS, 0, b'{"customer": "c"}'), "is no alert: meter: Field required."),
        (grow, f"usage.tally.state has {SHARDS + 1}"),
    ]
    for happens, fault in faults:
        happens()
        code, output, error = replay(worn, "--verify")
        assert (code, output) == (2, ""), error
        assert fault in error
        assert "Remedy: " in error


def test_without_verify_and_without_kafka_it_says_what_to_do() -> None:
    code, _, error = replay("127.0.0.1:1")
    assert code == 2
    assert "Remedy: Run `meterline replay --verify`." in error
    code, _, error = replay("127.0.0.1:1", "--help")
    assert code == 0


def test_on_a_kafka_without_topics_and_with_empty_ones_it_says_so(kafka: str) -> None:
    code, _, error = replay(kafka, "--verify")
    assert (code, "Kafka has no topic usage.alerts" in error) == (2, True)
