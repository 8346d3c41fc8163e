"""A replay of intake finds every event where it belongs, and what was lost, doubled or changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from pipeline.difference import Differences
from pipeline.errors import Stop
from pipeline.intake import Intake
from pipeline.noted import Range
from pipeline.pack import Pack
from pipeline.record import Record
from pipeline.replay_events import Taken, by_position
from pipeline.unpack import events_in
from schemas import topics
from schemas.definitions import Definitions
from schemas.frame import Frame
from schemas.usage_event import PACKED
from tests.pipeline.usage_log import NOVEMBER_20_MS, TOKENS, core, event, frame_of, pieces

SHARDS = 3

#: Reads something else of the same events, so that what is valid differs as well.
CHANGED = Definitions.model_validate(
    {
        "meters": [
            {"slug": "other", "event_type": "llm", "aggregation": "sum", "value": "$.other"},
            {"slug": "count", "event_type": "llm", "aggregation": "count"},
        ]
    }
)


@dataclass
class Log:
    """Events by partition, and what intake made of them, to be tampered with."""

    events: list[list[Record]]
    packs: list[list[Frame]] = field(default_factory=lambda: [[] for _ in range(SHARDS)])
    rejected: list[Record] = field(default_factory=list)
    definitions: dict[str, Definitions] = field(
        default_factory=lambda: {known.version: known for known in (TOKENS, CHANGED)}
    )
    #: Offsets in the shard logs before which packs were deleted.
    logs_begin: list[int] = field(default_factory=lambda: [0] * SHARDS)

    def take_in(self, records: Sequence[Record], definitions: Definitions) -> None:
        """One batch of intake."""
        for each in Intake(definitions, SHARDS).step(records):
            if each.topic == topics.METERED.name:
                assert each.partition is not None
                self.packs[each.partition].append(frame_of(each))
            else:
                place = len(self.rejected)
                self.rejected.append(
                    Record(each.topic, 0, place, 0, each.key, each.value, each.headers)
                )

    def differences(self) -> tuple[list[str], int, int]:
        """Sentences; how many events were compared, and how many could not be."""
        differences = Differences(100)
        taken = Taken([Range(0, len(records)) for records in self.events], differences)
        for shard, frames in enumerate(self.packs):
            for offset, frame in enumerate(frames[self.logs_begin[shard] :]):
                taken.note(shard, offset, Pack(frame))
        rejections = by_position(self.rejected)
        compared = uncompared = 0
        for partition, records in enumerate(self.events):
            found = taken.compare(
                partition,
                records,
                rejections.get(partition, {}),
                self.definitions,
                SHARDS,
                lambda shard: not self.logs_begin[shard],
            )
            compared += found.events
            uncompared += found.uncompared
        return [str(each) for each in differences.kept], compared, uncompared


def record(partition: int, offset: int, value: bytes | list[bytes]) -> Record:
    """One event, or many in a packed record."""
    headers = () if isinstance(value, bytes) else (("content-type", PACKED.encode()),)
    text = value if isinstance(value, bytes) else b"[" + b",".join(value) + b"]"
    at_ms = NOVEMBER_20_MS + offset
    return Record(topics.EVENTS.name, partition, offset, at_ms, b"k", text, headers)


def example() -> Log:
    """Two partitions of six events, of which one each is broken; two batches."""
    log = Log(
        [
            [
                record(
                    partition,
                    offset,
                    b"{"
                    if offset == 3
                    else event(f"{partition}.{offset}", subject=f"cus_{offset}"),
                )
                for offset in range(6)
            ]
            for partition in range(2)
        ]
    )
    log.take_in([each for records in log.events for each in records[:4]], TOKENS)
    log.take_in([each for records in log.events for each in records[4:]], TOKENS)
    return log


datas = st.fixed_dictionaries(
    {},
    optional={
        "n": st.sampled_from([1, "2.5", "99999999999999999999999999999", "x", 10**18]),
        "other": st.sampled_from(["1", "0.000000001", -3]),
        "model": st.sampled_from(["m", "", None]),
    },
)
values = st.one_of(
    st.sampled_from([b"", b"{", b'"text"']),
    st.builds(
        lambda number, subject, kind, data: event(
            str(number), subject=subject, type=kind, data=data
        ),
        st.integers(0, 9),
        st.sampled_from(["a", "b", "c", "d"]),
        st.sampled_from(["llm", "unmetered"]),
        datas,
    ),
)


@core(100)
@given(
    st.lists(st.lists(values | st.lists(values, max_size=4), max_size=12), min_size=1, max_size=3),
    st.data(),
)
def test_however_events_were_batched_and_by_whatever_definitions_nothing_differs(
    given_values: list[list[bytes | list[bytes]]], data: st.DataObject
) -> None:
    log = Log(
        [
            [record(partition, offset, value) for offset, value in enumerate(part)]
            for partition, part in enumerate(given_values)
        ]
    )
    everything = data.draw(st.permutations([each for part in log.events for each in part]))
    # Each partition in its own order.
    everything.sort(key=lambda each: each.offset)
    cuts = data.draw(st.lists(st.integers(1, 40), max_size=6))
    for piece in pieces(len(everything), cuts):
        log.take_in(everything[piece], data.draw(st.sampled_from([TOKENS, CHANGED])))
    assert log.differences() == ([], sum(map(events_in, everything)), 0)


def packed_example() -> Log:
    """One record of four events, of which one is broken."""
    texts = [event(str(number), subject=f"cus_{number}") for number in range(3)]
    log = Log([[record(0, 0, [*texts, b"7"])]])
    log.take_in(log.events[0], TOKENS)
    return log


def test_what_is_wrong_with_an_event_of_a_packed_record_names_its_place() -> None:
    log = packed_example()
    assert log.differences() == ([], 4, 0)
    drop_first_row(log)
    (lost,), _, _ = log.differences()
    assert "usage.events-0 at offset 0" in lost
    assert "is lost: neither packed nor rejected." in lost
    log = packed_example()
    log.rejected.clear()
    (lost,), _, _ = log.differences()
    assert lost.endswith(
        "usage.events-0 at offset 0, event 3 is lost: neither packed nor rejected."
    )
    log = packed_example()
    change_column("source_index", 9)(log)
    assert any(
        "event 9 is packed, but not on usage.events" in each for each in log.differences()[0]
    )


def test_a_rejection_of_what_is_too_large_to_be_kept_is_no_difference() -> None:
    log = Log([[record(0, 0, b"x" * 15 * 1024 * 1024)]])
    log.take_in(log.events[0], TOKENS)
    (rejected,) = log.rejected
    assert rejected.value is None
    assert log.differences() == ([], 1, 0)
    # As it was before any was too large.
    log.rejected = [structs.replace(rejected, value=log.events[0][0].value)]
    assert log.differences() == ([], 1, 0)
    log.rejected = [structs.replace(rejected, value=b"other")]
    ((difference,), _, _) = log.differences()
    assert "lies on usage.rejected with other bytes" in difference


def drop_first_row(log: Log) -> None:
    shard = next(shard for shard in log.packs if shard)
    shard[0] = Frame(shard[0].kind, shard[0].header, (shard[0].parts[0].slice(1),))


def double_a_pack(log: Log) -> None:
    shard = next(shard for shard in log.packs if shard)
    shard.append(shard[0])


def move_a_pack(log: Log) -> None:
    log.packs[0], log.packs[1] = log.packs[1], log.packs[0]


def change_column(name: str, value: object) -> Callable[[Log], None]:
    def tamper(log: Log) -> None:
        shard = next(shard for shard in log.packs if shard)
        batch = shard[0].parts[0]
        at = batch.schema.get_field_index(name)
        cells = [value, *batch.column(at).to_pylist()[1:]]
        column = pa.array(cells, batch.schema.types[at])
        changed = batch.set_column(at, batch.schema.field(at), column)
        shard[0] = Frame(shard[0].kind, shard[0].header, (changed,))

    return tamper


def reject_what_was_packed(log: Log) -> None:
    at = log.rejected[0]
    headers = tuple(
        (name, b"0" if name.endswith("offset") else value) for name, value in at.headers
    )
    log.rejected.append(Record(at.topic, 0, 99, 0, at.key, at.value, headers))


def change_reason(log: Log) -> None:
    at = log.rejected[0]
    headers = tuple(
        (name, b"too_large" if name.endswith("reason") else value) for name, value in at.headers
    )
    log.rejected[0] = Record(at.topic, 0, 0, 0, at.key, at.value, headers)


def change_bytes(log: Log) -> None:
    at = log.rejected[0]
    log.rejected[0] = Record(at.topic, 0, 0, 0, at.key, b"{}", at.headers)


def pack_what_is_broken(log: Log) -> None:
    """Its event was valid when it was packed, and something else lies there now."""
    log.events[0][0] = record(0, 0, b"[]")


def empty_what_was_rejected(log: Log) -> None:
    log.rejected[0] = structs.replace(log.rejected[0], value=None)


def mend_what_was_rejected(log: Log) -> None:
    log.events[0][3] = record(0, 3, event("mended"))


TAMPERINGS: dict[str, tuple[Callable[[Log], None], str]] = {
    "a lost event": (drop_first_row, "is lost: neither packed nor rejected."),
    "a doubled pack": (double_a_pack, "was packed before, in shard"),
    "packs in the wrong shard": (move_a_pack, "is packed in shard"),
    "a quantity": (change_column("value:$.n", 2), "is packed with other content"),
    "a customer": (change_column("customer", "cus_9"), "is packed with other content"),
    "a dimension": (change_column("dimension:$.model", "z"), "is packed with other content"),
    "an arrival": (change_column("received_at", 1), "is packed with other content"),
    "an identity": (change_column("id_high", 1), "is packed with other content"),
    "the bytes": (change_column("original", b"{}"), "is packed with other content"),
    "a position": (change_column("source_offset", 3), "is packed, though intake rejects it"),
    "a partition": (change_column("source_partition", 7), "which does not exist."),
    "a rejected value": (empty_what_was_rejected, "lies on usage.rejected with other bytes."),
    "a rejection of a good one": (reject_what_was_packed, "is packed and rejected."),
    "no rejection": (lambda log: log.rejected.clear(), "is lost: neither packed nor rejected."),
    "a doubled rejection": (
        lambda log: log.rejected.append(log.rejected[0]),
        "usage.events-0 at offset 3 was rejected 2 times.",
    ),
    "a reason": (change_reason, "was rejected as too_large, which intake does not find in it."),
    "the bytes of a dead letter": (change_bytes, "lies on usage.rejected with other bytes."),
    "a broken event packed": (
        pack_what_is_broken,
        "usage.events-0 at offset 0 is packed, though intake rejects it: not_a_cloudevent.",
    ),
    "a good event rejected": (
        mend_what_was_rejected,
        "at offset 3 was rejected as malformed_json, which intake does not find in it.",
    ),
}


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_every_change_on_the_way_into_the_log_is_told(tampering: str) -> None:
    tamper, sentence = TAMPERINGS[tampering]
    log = example()
    assert log.differences() == ([], 12, 0)
    tamper(log)
    found, _, _ = log.differences()
    assert any(sentence in each for each in found), found


def test_a_packed_event_that_no_partition_holds_is_told() -> None:
    """Below the end of its partition, where only a marker of a transaction lies."""
    log = example()
    gone = log.events[1][2]
    differences = Differences(100)
    taken = Taken([Range(0, 6), Range(0, 6)], differences)
    for shard, frames in enumerate(log.packs):
        for offset, frame in enumerate(frames):
            taken.note(shard, offset, Pack(frame))
    left = [each for each in log.events[1] if each is not gone]
    taken.compare(1, left, by_position(log.rejected)[1], log.definitions, SHARDS, lambda _: True)
    assert [each.problem for each in differences.kept] == [
        "usage.events-1 at offset 2 is packed, but not on usage.events"
    ]


def test_events_whose_packs_retention_has_deleted_are_not_called_lost() -> None:
    log = example()
    lost = sum(frames[0].parts[0].num_rows for frames in log.packs if frames)
    log.logs_begin = [1] * SHARDS
    assert log.differences() == ([], 12, lost)
    log.logs_begin = [0] * SHARDS
    for frames in log.packs:
        del frames[:1]
    assert len(log.differences()[0]) == lost


def test_where_retention_has_deleted_the_whole_log_no_event_is_called_lost() -> None:
    """Nor is a rejection wrong: the definitions that it was rejected by were on the log, too."""
    log = example()
    log.packs = [[] for _ in range(SHARDS)]
    log.definitions.clear()
    log.logs_begin = [1] * SHARDS
    assert log.differences() == ([], 12, 12)
    # But a log of which nothing was deleted never had them.
    log.logs_begin[1] = 0
    assert len(log.differences()[0]) == 12


def test_a_pack_by_definitions_that_were_never_announced_stops_the_replay() -> None:
    log = example()
    log.definitions.clear()
    with pytest.raises(Stop, match="which the log never announced"):
        log.differences()


def test_a_dead_letter_that_comes_with_headers_of_an_earlier_one_is_read_by_its_last() -> None:
    log = example()
    first = log.rejected[0]
    doubled = (*((name, b"9") for name, _ in first.headers), *first.headers)
    log.rejected[0] = Record(first.topic, 0, 0, 0, first.key, first.value, doubled)
    assert log.differences()[0] == []
