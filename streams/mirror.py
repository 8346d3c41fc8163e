"""A copy of one partition of a changelog, from where a restore begins, in a file on local disk.

Kafka is the truth, and the copy only saves reading it again. So nothing is synced, and the file may
be deleted, cut or damaged at any time. Each entry's checksum is seeded with that of the entry
before: what is read is good, and without a gap, up to the first entry that is damaged, missing or
left over from another file, and there it ends.

    offset  size  what (of each entry: the first is a `Head`, every other one an `Entry`)
    0       4     length of the body, little-endian
    4       8     XXH3-64 of the body, seeded with that of the entry before (the head's with 0)
    12      ...   body, MessagePack
"""

from __future__ import annotations

import fcntl
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BufferedWriter
from itertools import islice
from pathlib import Path

import msgspec
import xxhash

from pipeline.record import Headers

_PREFIX = struct.Struct("<IQ")
_encode = msgspec.msgpack.Encoder().encode


class Head(msgspec.Struct, frozen=True, array_like=True):
    """Of what the file is a copy: `log` is the topic's id, `begin` its first offset."""

    log: str
    partition: int
    begin: int
    format: int = 1


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One committed record; its timestamp is not kept."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


_decode = msgspec.msgpack.Decoder(Entry).decode


class Mirror:
    """The file; none of its methods fails because of the disk.

    A disk that refuses closes the mirror, and `refused` hears why. A closed mirror is empty and
    takes nothing, until it is opened again.
    """

    def __init__(self, path: Path, refused: Callable[[OSError], None]) -> None:
        self._path = path
        self._refused = refused
        self._file: BufferedWriter | None = None
        self._head = Head("", 0, 0)
        #: Of the last entry.
        self._checksum = 0
        #: The last record that it has.
        self.last: Entry | None = None

    def open(self, head: Head) -> None:
        """Keep what is good of the file, if that is a copy of what `head` says; else nothing."""
        self.close()
        self._head = head
        with self._tolerated():
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = self._path.open("ab")
            # Not even two processes that were given one name share a file.
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            good = self._good()
            first = next(good, None)
            if first is None or first[0] != _encode(head):
                self.begin(head.begin, ())
                return
            newest = deque(good, maxlen=1)
            body, self._checksum, end = newest[0] if newest else first
            self._file.truncate(end)
            self.last = _decode(body) if newest else None

    def entries(self) -> Iterator[Entry]:
        """All records that it has.

        Raises:
            OSError: the file was damaged since it was opened.
        """
        if self.last is None:
            return
        reached = 0
        for body, checksum, _ in islice(self._good(), 1, None):
            reached = checksum
            yield _decode(body)
        if reached != self._checksum:
            raise OSError(f"{self._path} was damaged while it was read")

    def begin(self, offset: int, entries: Sequence[Entry]) -> None:
        """Begin anew with the record at `offset`: what came before it is not needed.

        In place: should this be cut short, what is there is good as far as it goes.
        """
        self.last = None
        with self._tolerated():
            if self._file is not None:
                self._file.truncate(0)
                self._checksum = 0
                self._head = msgspec.structs.replace(self._head, begin=offset)
                self._write([_encode(self._head)])
                self.append(entries)

    def append(self, entries: Sequence[Entry]) -> None:
        """Add the records that follow."""
        with self._tolerated():
            if self._file is not None and entries:
                self._write(map(_encode, entries))
                self.last = entries[-1]

    def move_to(self, path: Path) -> None:
        """Lie at `path` from now on, instead of what lies there."""
        with self._tolerated():
            self._path.replace(path)
            self._path = path

    def discard(self) -> None:
        """Let go of the file and delete it."""
        self.close()
        with suppress(OSError):
            self._path.unlink()

    def close(self) -> None:
        """Let go of the file."""
        self.last = None
        if self._file is not None:
            # It tries once more to write what could not be written.
            with suppress(OSError):
                self._file.close()
            self._file = None

    def _write(self, bodies: Iterable[bytes]) -> None:
        assert self._file is not None
        for body in bodies:
            self._checksum = xxhash.xxh3_64_intdigest(body, seed=self._checksum)
            self._file.write(_PREFIX.pack(len(body), self._checksum))
            self._file.write(body)
        self._file.flush()

    def _good(self) -> Iterator[tuple[bytes, int, int]]:
        """Each body that is good, its checksum, and where in the file it ends."""
        checksum = 0
        with self._path.open("rb") as file:
            left = self._path.stat().st_size
            while len(prefix := file.read(_PREFIX.size)) == _PREFIX.size:
                length, expected = _PREFIX.unpack(prefix)
                left -= _PREFIX.size + length
                if left < 0:
                    return
                body = file.read(length)
                checksum = xxhash.xxh3_64_intdigest(body, seed=checksum)
                if checksum != expected:
                    return
                yield body, checksum, file.tell()

    @contextmanager
    def _tolerated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.close()
            self._refused(error)
