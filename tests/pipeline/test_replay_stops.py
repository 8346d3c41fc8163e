"""A replay stops where a frame, a state or the log itself cannot be trusted."""

from __future__ import annotations

import pytest

from pipeline.errors import Stop
from pipeline.pack import Pack
from pipeline.replay import restore_after
from schemas.frame import Frame, Kind
from tests.pipeline.replayed import Seen, example, verify
from tests.pipeline.usage_log import frame_of


@pytest.mark.parametrize(
    ("name", "frame"),
    [
        ("totals", Frame(Kind.TOTALS, {"version": 1}, ())),
        ("totals", Frame(Kind.TOTALS, {}, ())),
        ("decisions", Frame(Kind.DECISIONS, {"pack_offset": 1}, ())),
        ("decisions", Frame(Kind.DECISIONS, {"pack_offset": None}, ())),
    ],
)
def test_a_frame_that_says_something_else_stops_the_replay(name: str, frame: Frame) -> None:
    played = example()
    seen = Seen.of(played)
    getattr(seen, name).insert(0, frame)
    with pytest.raises(Stop, match=r"A frame on usage\.\w+ has .* Find the program that wrote it"):
        verify(played, seen)


def test_a_state_of_another_number_of_shards_stops_the_replay() -> None:
    played = example()
    seen = Seen.of(played)
    begin = restore_after([frame_of(each) for each in played.changelog], 5, is_whole=True)
    assert begin is not None
    begin.number, begin.shards = 2, 4
    with pytest.raises(Stop, match="has the state of shard 2 of 4, but this is shard 0 of 1"):
        verify(played, seen, begin=begin)


def test_without_a_state_of_its_time_a_log_without_beginning_is_not_replayed() -> None:
    played = example()
    changelog = [frame_of(each) for each in played.changelog]
    assert restore_after(changelog, played.counted + 1, is_whole=True) is None
    assert restore_after(changelog[1:], 1, is_whole=False) is None
    assert restore_after([], 1, is_whole=True) is None


def test_a_pack_by_definitions_that_were_never_announced_stops_the_replay() -> None:
    played = example()
    seen = Seen.of(played)
    assert Pack(played.log[1][1]).definitions_version
    played.log = [(offset - 1, frame) for offset, frame in played.log[1:]]
    with pytest.raises(Stop, match="which its log never announced"):
        verify(played, seen, before=3)
