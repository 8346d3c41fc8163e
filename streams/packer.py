"""Events wait here for others of their partition, to travel with them in one Kafka record."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from pipeline.errors import MeterlineError
from pipeline.nesting import NESTING_MAX, is_nested_deeper
from pipeline.reject import Position
from streams.murmur2 import Partitions

Arrived = Callable[[Position], None]

#: Lets the client choose the partition: for events without a key, which have no order to keep.
ANY_PARTITION: Final = -1

#: How often the number of partitions is looked up, as librdkafka does.
_LOOK_SECONDS = 300.0
_PAUSE_SECONDS_MIN = 0.001

_array = msgspec.json.Decoder(list[msgspec.Raw])


@dataclass(slots=True)
class Pack:
    """Events of one partition, in the order in which they were sent."""

    values: list[bytes] = field(default_factory=list)
    #: The customer of each.
    keys: list[bytes | None] = field(default_factory=list)
    #: Who is told where an event lies, by its place.
    arrived: dict[int, Arrived] = field(default_factory=dict)
    size: int = 0
    is_old: bool = False

    def joined(self) -> bytes | None:
        """The events as one JSON array; None where readers would not split it into just these.

        That is so if one of them is not JSON, is nested too deeply, or has blanks around it.
        """
        value = b"[" + b",".join(self.values) + b"]"
        if any(is_nested_deeper(each, NESTING_MAX) for each in self.values):
            return None
        try:
            found = _array.decode(value)
        except msgspec.MsgspecError:
            return None
        # In one order, of equal lengths, one byte apart: the very same pieces.
        return value if list(map(len, found)) == list(map(len, self.values)) else None


class Packer:
    """One open pack for each partition, and one for events without a key.

    `send` is called with a partition and a pack that is full or has waited, for each partition in
    order; never twice at once. `partition_count` looks up how many partitions there are.
    """

    def __init__(
        self,
        send: Callable[[int, Pack], None],
        partition_count: Callable[[], int],
        *,
        events_max: int,
        bytes_max: int,
        linger_ms: float,
    ) -> None:
        self._send = send
        self._partition_count = partition_count
        self._events_max = events_max
        self.bytes_max = bytes_max
        # A pack is sent at the second look, so it waits between a half and the whole of the time.
        self._pause_seconds = max(linger_ms / 2_000, _PAUSE_SECONDS_MIN)
        self._lock = threading.RLock()
        self._packs: dict[int, Pack] = {}
        self._partitions: Partitions | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="meterline-packer", daemon=True)
        self._thread.start()

    def add(self, value: bytes, key: bytes | None, arrived: Arrived | None) -> bool:
        """Let an event wait; sends its pack once it is full. Raises like `partition_count`.

        Takes nothing once it is closed: whether it took this.
        """
        with self._lock:
            if self._closed.is_set():
                return False
            partition = self._partition(key)
            pack = self._packs.get(partition)
            if pack is not None and pack.size + len(value) > self.bytes_max:
                self._send_pack(partition)
                pack = None
            if pack is None:
                pack = self._packs[partition] = Pack()
            if arrived is not None:
                pack.arrived[len(pack.values)] = arrived
            pack.values.append(value)
            pack.keys.append(key)
            pack.size += len(value)
            if len(pack.values) >= self._events_max:
                self._send_pack(partition)
            return True

    def make_way(self, key: bytes | None) -> None:
        """Send what a record of this key must not overtake. Raises like `partition_count`."""
        with self._lock:
            self._send_pack(self._partition(key))

    def send_all(self) -> None:
        """Send all that waits."""
        with self._lock:
            for partition in list(self._packs):
                self._send_pack(partition)

    def close(self) -> None:
        """Take nothing more, and stop looking for packs that have waited; `send_all` is to follow.

        A pack that was full is on its way then.
        """
        self._closed.set()
        self._thread.join()

    def _partition(self, key: bytes | None) -> int:
        if key is None:
            return ANY_PARTITION
        if self._partitions is None:
            self._partitions = Partitions(self._partition_count())
        return self._partitions[key]

    def _send_pack(self, partition: int) -> None:
        pack = self._packs.pop(partition, None)
        if pack is not None:
            self._send(partition, pack)

    def _run(self) -> None:
        look_at = time.monotonic() + _LOOK_SECONDS
        while not self._closed.wait(self._pause_seconds):
            with self._lock:
                for partition, pack in list(self._packs.items()):
                    if pack.is_old:
                        self._send_pack(partition)
                    pack.is_old = True
            if time.monotonic() >= look_at:
                self._look_again()
                look_at = time.monotonic() + _LOOK_SECONDS

    def _look_again(self) -> None:
        """Follow the topic if partitions were added; what waits goes where it belonged before."""
        try:
            count = self._partition_count()
        except MeterlineError:
            return  # whatever is wrong, deliveries tell
        with self._lock:
            if self._partitions is not None and self._partitions.count != count:
                self.send_all()
                self._partitions = Partitions(count)
