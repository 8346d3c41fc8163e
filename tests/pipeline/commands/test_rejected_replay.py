"""`meterline rejected replay`: dead letters come back byte for byte, and are counted once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from pipeline.commands.rejected import Arrival, send_originals
from pipeline.commands.show_rejected import entry
from pipeline.reject import Wanted
from schemas import topics
from schemas.usage_event import PACKED, STRUCTURED
from streams.dead_letters import letters
from tests.pipeline.commands.rejections import (
    MENDED,
    NOW,
    POISON,
    WRONG,
    Original,
    Pipeline,
    milliseconds,
    rejecting,
    usage,
    written,
)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """One for this module: its tests replay, and see what the others left."""
    with rejecting(tmp_path_factory.mktemp("pipeline")) as pipeline:
        yield pipeline


def test_what_wrong_definitions_rejected_counts_once_after_they_are_mended(
    pipeline: Pipeline,
) -> None:
    before = pipeline.events()
    (rejected,) = {each["reason"] for each in pipeline.listed("--customer", "once")}
    assert rejected == "missing_value"

    # Meanwhile its producer sends one of them again by itself.
    pipeline.send(usage("once-2", "once", 2))
    pipeline.work(MENDED)
    assert pipeline.used("once") == ("2", 1)

    moved = [pipeline.replay("--customer", "once") for _ in range(2)]
    pipeline.work(MENDED)

    assert pipeline.used("once") == ("7", 3)
    assert pipeline.statuses("once") == {"accepted": 3, "duplicate": 4}
    after = pipeline.events()
    assert len(pipeline.listed("--customer", "once")) == 3, "none was rejected again"
    for moves in moved:
        assert len(moves) == 3
        for old, new in moves.items():
            assert new not in before
            assert written(after[new]) == written(before[old])
            assert after[new].timestamp_ms >= milliseconds(NOW)


def test_what_is_still_unusable_is_rejected_again_and_is_byte_for_byte_the_same(
    pipeline: Pipeline,
) -> None:
    listed = pipeline.listed("--customer", "poison")
    assert [each["customer_said_by"] for each in listed] == ["key"] * len(POISON)
    positions = [each["position"] for each in listed]
    moved = pipeline.replay(*positions)
    pipeline.work(MENDED)

    again = pipeline.listed("--customer", "poison")
    assert len(again) == 2 * len(POISON)
    assert {each["position"] for each in again} == {*moved.keys(), *moved.values()}
    events = pipeline.events()
    assert sorted(map(repr, POISON)) == sorted(repr(written(events[old])) for old in moved)
    for old, new in moved.items():
        assert written(events[new]) == written(events[old])
        shown = [pipeline.command("show", place, "--raw") for place in (old, new)]
        assert [each.stdout for each in shown] == [events[old].value or b""] * 2


def test_now_leaves_a_closed_period_alone_and_original_counts_into_it(pipeline: Pipeline) -> None:
    before = pipeline.events()
    places = {json.loads(before[each["position"]].value or b"")["id"]: each["position"]
              for each in pipeline.listed("--customer", "late")}  # fmt: skip
    pipeline.replay(places["late-1"])
    moved = pipeline.replay(places["late-2"], "--arrival", "original")
    pipeline.work(MENDED)
    assert pipeline.statuses("late") == {"late": 1, "accepted": 1}
    # What was late has claimed its id: it is too late to think again.
    pipeline.replay(places["late-1"], "--arrival", "original")
    pipeline.work(MENDED)
    assert pipeline.statuses("late") == {"late": 1, "accepted": 1, "duplicate": 1}
    assert pipeline.used("late") == ("16", 1)
    after = pipeline.events()
    assert [after[new].timestamp_ms for new in moved.values()] == [
        before[old].timestamp_ms for old in moved
    ]


def test_an_original_arrival_beyond_the_memory_of_identities_is_refused(
    pipeline: Pipeline,
) -> None:
    before = len(pipeline.events())
    refused = pipeline.command("replay", "--customer", "old", "--arrival", "original", "--yes")
    assert (refused.returncode, refused.stdout) == (2, b"")
    assert b"1 of these 2 arrived before" in refused.stderr
    assert b"Remedy: Replay these with --arrival now" in refused.stderr
    assert len(pipeline.events()) == before
    since = f"{NOW - timedelta(days=35):%Y-%m-%d}"
    assert len(pipeline.replay("--customer", "old", "--arrival=original", "--since", since)) == 1
    assert len(pipeline.replay("--customer", "old", "--until", since)) == 1


def test_an_original_arrival_is_refused_where_the_broker_sets_it(pipeline: Pipeline) -> None:
    _set_config(pipeline.address, "message.timestamp.type", "LogAppendTime")
    try:
        refused = pipeline.command("replay", "--customer=late", "--arrival=original", "--yes")
    finally:
        _set_config(pipeline.address, "message.timestamp.type", "CreateTime")
    assert (refused.returncode, refused.stdout) == (2, b"")
    assert b"message.timestamp.type=LogAppendTime" in refused.stderr
    assert b"Remedy: Replay with --arrival now." in refused.stderr


def _set_config(address: str, name: str, value: str) -> None:
    changed = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topics.EVENTS.name, incremental_configs=[changed])
    admin = AdminClient({"bootstrap.servers": address})
    for altered in admin.incremental_alter_configs([resource]).values():
        altered.result(60)


def test_nothing_is_sent_unless_a_person_agrees(pipeline: Pipeline) -> None:
    before = len(pipeline.events())
    chosen = ("replay", "--customer", "asked")
    for ended in (
        pipeline.command(*chosen),
        pipeline.command(*chosen, stdin="n\n"),
        pipeline.command(*chosen, "--dry-run", "--yes"),
    ):
        assert b"missing_value" in ended.stdout
        assert b"1 rejection: 1 missing_value" in ended.stdout
        assert b" \xe2\x86\x92 " not in ended.stdout
    assert len(pipeline.events()) == before
    agreed = pipeline.command(*chosen, stdin="y\n")
    assert agreed.returncode == 0
    assert b"Sent 1 of 1 to usage.events." in agreed.stdout
    assert len(pipeline.events()) == before + 1


def test_what_is_rejected_after_a_person_agreed_is_not_sent(
    pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    kafka = {"bootstrap.servers": pipeline.address}
    wanted = Wanted(customer="listed")
    agreed = [entry(letter, place) for place, letter in letters(kafka, wanted)][:1]
    send_originals(kafka, wanted, agreed, Arrival.NOW)
    old, new, last = capsys.readouterr().out.replace(" → ", "\n").splitlines()
    assert last == "Sent 1 of 1 to usage.events."
    assert old == str(agreed[0].position)
    assert written(pipeline.events()[new]) == written(pipeline.events()[old])


def test_an_event_that_came_packed_comes_back_alone(pipeline: Pipeline) -> None:
    texts = [usage(f"packed-{n}", "packed", n).value or b"" for n in (1, 2, 4)]
    headers = (("content-type", PACKED.encode()), ("trace", b"1"))
    pipeline.send(Original(b"[" + b", ".join(texts) + b"]", None, headers))
    pipeline.work(WRONG)
    first, second, third = (each["position"] for each in pipeline.listed("--customer", "packed"))
    assert (second, third) == (f"{first}/1", f"{first}/2")
    shown = pipeline.command("show", second, "--raw")
    assert shown.stdout == texts[1]
    moved = pipeline.replay(second)
    assert [*moved] == [second]
    alone = pipeline.events()[moved[second]]
    assert written(alone) == Original(
        texts[1], None, (("content-type", STRUCTURED.encode()), ("trace", b"1"))
    )
    pipeline.work(MENDED)
    assert pipeline.used("packed") == ("2", 1)


def test_what_was_too_large_to_be_kept_is_not_sent_and_said_to_be_elsewhere(
    pipeline: Pipeline,
) -> None:
    large = usage("large", "large", "x" * 15 * 1024 * 1024)
    small = usage("small", "large", "no number")
    compressing = {"compression.type": "zstd", "message.max.bytes": "100000000"}
    pipeline.send(large, small, kafka=compressing)
    pipeline.work(MENDED)
    (whole,) = pipeline.listed("--customer", "large", "--reason", "invalid_value")
    (lacking,) = pipeline.listed("--customer", "large", "--reason", "too_large")
    assert (whole["bytes"], whole["left_out"]) == (len(small.value or b""), None)
    assert (lacking["bytes"], lacking["left_out"]) == (None, "value")
    assert lacking["message"].startswith("Kept without its value. The event has ")
    position = lacking["position"]
    place = f"usage.events-{lacking['source_partition']} at offset {lacking['source_offset']}"
    shown = pipeline.command("show", position).stdout.decode()
    assert "Left out    value: too large to be kept\n" in shown
    assert f"Original    {place}, until retention deletes it\n" in shown
    assert "Key         large\n" in shown
    # Named alone it is an error, also where its empty bytes might be taken for it.
    for arguments in (("show", position, "--raw"), ("replay", position, "--yes")):
        refused = pipeline.command(*arguments)
        assert (refused.returncode, refused.stdout) == (2, b"")
        assert f"The original of {position} was too large" in refused.stderr.decode()
        assert f"can read it from {place}." in refused.stderr.decode()
    # The others of its customer are sent without it, aloud.
    ended = pipeline.command("replay", "--customer", "large", "--yes")
    assert f"Not to be sent: 1. The original of {position}" in ended.stderr.decode()
    assert ended.stdout.startswith(f"{whole['position']} → ".encode())
    assert ended.stdout.endswith(b"Sent 1 of 1 to usage.events.\n")
    assert written(pipeline.events()[position]) == large
