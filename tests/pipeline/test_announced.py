"""What was cut by definitions that a log announces only later counts as if they stood before it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from pipeline.announced import announced_in_time
from pipeline.shard import Restore
from schemas import topics
from schemas.frame import Frame
from tests.pipeline.shard_log import Play, arriving, intake, limited, used
from tests.pipeline.usage_log import frame_of

#: A file before a customer was added, and after it.
BEFORE = limited()
AFTER = limited() | {"customers": [{"id": "c1", "plan": "p"}, {"id": "c2", "plan": "p"}]}


def read_on(played: Play, offset: int) -> Iterable[Frame]:
    return (frame for at, frame in played.log if at >= offset)


def behind_a_loss() -> Play:
    """A log in which the packs of a new customer lie before the definitions that know it."""
    played = Play()
    before, after = intake(BEFORE), intake(AFTER)
    played.append([*before.announce(), *before.step(arriving([used("1")]))])
    played.step(2)
    for offset in (1, 2):
        played.append(after.step(arriving([used(str(offset + 1), customer="c2")], offset)))
    played.append(after.announce())
    return played


def test_a_customer_that_came_with_lost_definitions_is_counted_by_those_further_on() -> None:
    played = behind_a_loss()
    log = announced_in_time(played.shard.documents, played.log[2:], partial(read_on, played))
    played.outgoing += played.tally.step({0: list(log)})
    assert played.outcome().statuses == ["accepted"] * 3
    assert played.shard.next_offset == len(played.log)


def test_definitions_that_were_found_further_on_are_remembered_after_a_restart() -> None:
    played = behind_a_loss()
    first = played.log[2:3]
    log = announced_in_time(played.shard.documents, first, partial(read_on, played))
    for each in played.tally.step({0: list(log)}):
        if each.topic == topics.TALLY_STATE.name:
            played.changelog.append(each)
    restored = Restore(map(frame_of, played.changelog)).shard()
    assert restored.documents.keys() == played.shard.documents.keys()
    assert restored.current == first[0][1].header["definitions"]


def test_a_log_that_announces_in_time_is_not_read_twice() -> None:
    played = Play()
    cutter = intake(BEFORE)
    played.append([*cutter.announce(), *cutter.step(arriving([used("1")]))])

    def fails(offset: int) -> Iterable[Frame]:
        raise AssertionError(offset)

    assert list(announced_in_time((), played.log, fails)) == played.log
    assert list(announced_in_time([played.log[0][1].header["version"]], played.log[1:], fails))
