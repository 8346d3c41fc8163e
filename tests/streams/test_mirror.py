"""The local copy of a changelog gives back a beginning of what it took, whatever befell it."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.mirror import Entry, Head, Mirror
from tests.pipeline.usage_log import core

HEAD = Head("topic-id", 3, 40)

contents = st.none() | st.binary(max_size=40)
headers = st.lists(st.tuples(st.text(max_size=3), st.binary(max_size=3)), max_size=2).map(tuple)


@st.composite
def logs(draw: st.DrawFn, min_size: int = 0) -> list[Entry]:
    """Entries with gaps between their offsets, as transactions leave them."""
    drawn = draw(st.lists(st.tuples(contents, contents, headers), min_size=min_size, max_size=8))
    return [Entry(40 + 3 * number, *content) for number, content in enumerate(drawn)]


class Refusals(list[OSError]):
    """Why the disk refused."""

    def __call__(self, error: OSError) -> None:
        self.append(error)


def opened(path: Path, head: Head = HEAD) -> Mirror:
    refused = Refusals()
    mirror = Mirror(path, refused)
    mirror.open(head)
    assert refused == []
    return mirror


def write(path: Path, entries: list[Entry], batch: int = 1) -> None:
    mirror = opened(path)
    for begin in range(0, len(entries), batch):
        mirror.append(entries[begin : begin + batch])
    mirror.close()


def read(path: Path, head: Head = HEAD) -> list[Entry]:
    mirror = opened(path, head)
    entries = list(mirror.entries())
    assert mirror.last == (entries[-1] if entries else None)
    mirror.close()
    return entries


@contextmanager
def fresh() -> Iterator[Path]:
    with TemporaryDirectory() as directory:
        yield Path(directory) / "mirrors" / "log-3"


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """As on a full disk: what is written beyond fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@core(40)
@given(logs(), st.integers(1, 3))
def test_what_was_appended_comes_back(entries: list[Entry], batch: int) -> None:
    with fresh() as path:
        write(path, entries, batch)
        assert read(path) == entries


@core(150)
@given(logs(min_size=1), st.data())
def test_of_a_damaged_file_remains_what_comes_before_the_damage(
    entries: list[Entry], data: st.DataObject
) -> None:
    with fresh() as path:
        write(path, entries)
        content = bytearray(path.read_bytes())
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        left = read(path)
        assert left == entries[: len(left)]
        assert len(left) < len(entries)
        # What follows is appended to what is left.
        rest = entries[len(left) :]
        write(path, rest)
        assert read(path) == entries


@core(60)
@given(logs(min_size=1), st.data())
def test_of_a_file_that_was_cut_remains_what_is_whole(
    entries: list[Entry], data: st.DataObject
) -> None:
    with fresh() as path:
        write(path, entries)
        content = path.read_bytes()
        path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
        left = read(path)
        assert left == entries[: len(left)]
        assert len(left) < len(entries)


@core(60)
@given(logs(min_size=2), st.data())
def test_a_file_in_which_a_piece_is_missing_ends_before_the_gap(
    entries: list[Entry], data: st.DataObject
) -> None:
    """A whole entry is gone, and all others are as they were written."""
    with fresh() as path:
        ends = []
        mirror = opened(path)
        for entry in entries:
            ends.append(path.stat().st_size)
            mirror.append([entry])
        mirror.close()
        gone = data.draw(st.integers(0, len(entries) - 2))
        content = path.read_bytes()
        path.write_bytes(content[: ends[gone]] + content[ends[gone + 1] :])
        assert read(path) == entries[:gone]


@pytest.mark.parametrize(
    "head", [Head("other", 3, 40), Head("topic-id", 4, 40), Head("topic-id", 3, 0)]
)
def test_a_copy_of_something_else_is_void(tmp_path: Path, head: Head) -> None:
    write(tmp_path / "log", [Entry(40, None, b"1")])
    assert read(tmp_path / "log", head) == []
    assert read(tmp_path / "log") == []


def test_a_new_beginning_voids_what_came_before_and_gives_its_room_back(tmp_path: Path) -> None:
    path = tmp_path / "log"
    mirror = opened(path)
    mirror.append([Entry(40, None, b"long" * 1_000)])
    mirror.begin(50, [Entry(50, None, b"a"), Entry(51, None, b"b")])
    mirror.append([Entry(53, None, b"c")])
    mirror.close()
    assert path.stat().st_size < 200
    assert [entry.offset for entry in read(path, Head("topic-id", 3, 50))] == [50, 51, 53]


def test_two_that_were_given_one_name_do_not_share_a_file(tmp_path: Path) -> None:
    first, refused = opened(tmp_path / "log"), Refusals()
    second = Mirror(tmp_path / "log", refused)
    first.append([Entry(40, None, b"1")])
    second.open(HEAD)
    second.append([Entry(40, None, b"2")])
    second.begin(41, [Entry(41, None, b"3")])
    assert list(second.entries()) == []
    assert [type(error) for error in refused] == [BlockingIOError]
    first.close()
    assert read(tmp_path / "log") == [Entry(40, None, b"1")]


def test_a_directory_that_cannot_be_written_to_is_told_and_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    mirror = Mirror(tmp_path / "file" / "log", refused := Refusals())
    mirror.open(HEAD)
    mirror.append([Entry(40, None, b"1")])
    assert mirror.last is None
    assert list(mirror.entries()) == []
    assert [type(error) for error in refused] == [FileExistsError]


@pytest.mark.parametrize(("room", "whole"), [(1, 0), (20, 0), (3_000, 1), (12_000, 5)])
def test_a_full_disk_ends_the_copy_and_leaves_what_is_whole(
    tmp_path: Path, room: int, whole: int
) -> None:
    entries = [Entry(40 + number, None, b"v" * 2_000) for number in range(8)]
    path = tmp_path / "log"
    mirror = Mirror(path, refused := Refusals())
    with files_no_larger_than(room):
        mirror.open(HEAD)
        for entry in entries:
            mirror.append([entry])
        mirror.close()
    assert len(refused) == 1
    assert read(path) == entries[:whole]
    write(path, entries[whole:])
    assert read(path) == entries


def test_a_file_that_is_damaged_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "log", [Entry(40, None, b"1"), Entry(41, None, b"2")])
    mirror = opened(tmp_path / "log")
    (tmp_path / "log").write_bytes((tmp_path / "log").read_bytes()[:-1])
    with pytest.raises(OSError, match="was damaged while it was read"):
        list(mirror.entries())
    mirror.close()
