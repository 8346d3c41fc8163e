"""A TCP proxy between stages and their broker that knows just enough of Kafka to do harm.

It reads whose request passes and what it asks for (https://kafka.apache.org/protocol), so that it
can delay one kind of request, kill a process between two of its effects, and see who commits.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from random import Random
from types import TracebackType
from typing import Any, Self

from streams.local_kafka import free_port

PRODUCE, OFFSET_COMMIT, END_TXN, TXN_OFFSET_COMMIT = 0, 8, 26, 28

#: The requests at which a process may be killed: its effects, and what it takes part by.
EFFECTS = {
    PRODUCE: "Produce",
    OFFSET_COMMIT: "OffsetCommit",
    TXN_OFFSET_COMMIT: "TxnOffsetCommit",
    END_TXN: "EndTxn",
}

#: What a consumer appends to its process's name, so that more partitions make it a new member.
_PARTITIONS = re.compile(r"\.\d+p$")

#: From this version on both headers of EndTxn end in tagged fields, one byte when there are none.
_END_TXN_FLEXIBLE = 3


def free_ports(count: int) -> list[int]:
    """So many ports of 127.0.0.1 that are free, all of them different."""
    ports: set[int] = set()
    while len(ports) < count:
        ports.add(free_port())
    return list(ports)


@dataclass
class Ambush:
    """Strikes at one client's next request of a kind, before or after the broker gets it."""

    client: str
    api_key: int
    before: bool
    strike: Callable[[], None]
    sprung: threading.Event = field(default_factory=threading.Event)


@dataclass(eq=False)
class Straggler:
    """One client's next request of a kind: its connection breaks, and the broker gets it late."""

    client: str
    api_key: int
    #: It is under way, and the client has lost the connection.
    left: threading.Event = field(default_factory=threading.Event)
    #: The broker has answered it.
    answered: threading.Event = field(default_factory=threading.Event)
    may_arrive: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(eq=False)
class _Link:
    """One connection of a client, and the one to the broker that stands for it."""

    client_writer: asyncio.StreamWriter
    broker_port: int
    client: str = ""
    #: Correlation id → api key, version and the request, while an answer is awaited.
    pending: dict[int, tuple[int, int, bytes]] = field(default_factory=dict)
    half_open: bool = False
    torn: bool = False


class KafkaProxy:
    """Forwards from its own ports to `broker_ports`; a context manager, harmless until told."""

    def __init__(self, brokers: int = 1) -> None:
        self.broker_ports = free_ports(brokers)
        #: What it listens on, one for each broker.
        self.addresses: list[str] = []
        #: Client → when the broker last confirmed positions of it, on the monotonic clock.
        self.committed_at: dict[str, float] = {}
        #: Client → when it was last heard of.
        self.heard_at: dict[str, float] = {}
        #: What passed, by api key.
        self.requests: Counter[int] = Counter()
        self.latency_seconds = 0.0
        self.end_txn_seconds = 0.0
        self._links: set[_Link] = set()
        self._cut_off: set[str] = set()
        self._ambushes: dict[str, Ambush] = {}
        self._stragglers: list[Straggler] = []
        self._under_way: list[asyncio.Future[None]] = []
        self._sent_offsets: set[str] = set()
        self._loop = asyncio.new_event_loop()
        self._open = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="kafka-proxy", daemon=True)
        self._ready = threading.Event()

    @property
    def address(self) -> str:
        """What clients take as `bootstrap.servers`."""
        return ",".join(self.addresses)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def lay(self, ambush: Ambush) -> None:
        """Wait for a client's next request of a kind; a client has one ambush at a time."""
        self._ambushes[ambush.client] = ambush

    def lift(self, client: str) -> None:
        """Wait for it no more."""
        self._ambushes.pop(client, None)

    def hold_up(self, straggler: Straggler) -> None:
        """Break the connection of a client's next request of a kind, and keep the request."""
        self._stragglers.append(straggler)

    def let_arrive(self, straggler: Straggler) -> None:
        """Let the broker have it after all; if it has not come yet, it will not be held up."""
        if straggler in self._stragglers:
            self._stragglers.remove(straggler)
        self._loop.call_soon_threadsafe(straggler.may_arrive.set)

    def has_committed_since(self, client: str, began: float) -> bool:
        """Whether the broker has confirmed positions of it since this monotonic time."""
        return self.committed_at.get(client, 0.0) > began

    def reset(self, rng: Random, share: float = 1.0) -> int:
        """Reset connections, half of them in the middle of their next answer; how many more."""
        links = self._chosen(rng, share)
        for link in links:
            if rng.random() < 0.5:
                link.torn = True
            else:
                self._loop.call_soon_threadsafe(_reset, link)
        return len(links)

    def half_open(self, rng: Random, share: float) -> None:
        """Leave connections open and answer on them no more, until `heal` resets them."""
        for link in self._chosen(rng, share):
            link.half_open = True

    def cut_off(self, client: str) -> None:
        """Let nothing of one client through, whatever connection it opens, until `heal`."""
        self._cut_off.add(client)

    def black_hole(self) -> None:
        """Let nothing through in either direction until `heal`."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def heal(self) -> None:
        """End everything that was begun."""
        self.latency_seconds = self.end_txn_seconds = 0.0
        self._cut_off.clear()
        self._loop.call_soon_threadsafe(self._open.set)
        for link in list(self._links):
            if link.half_open:
                self._loop.call_soon_threadsafe(_reset, link)

    def _chosen(self, rng: Random, share: float) -> list[_Link]:
        links = sorted(
            (link for link in self._links if not link.torn), key=lambda link: link.client
        )
        return [link for link in links if rng.random() < share]

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._open.set()
        servers = [self._listen(port) for port in self.broker_ports]
        self._ready.set()
        self._loop.run_forever()
        for server in servers:
            server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    def _listen(self, broker_port: int) -> asyncio.Server:
        serve = partial(self._serve, broker_port)
        server = self._loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0))
        self.addresses.append(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        return server

    async def _serve(
        self, broker_port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        link = _Link(writer, broker_port)
        self._links.add(link)
        broker_writer = None
        try:
            answers, broker_writer = await asyncio.open_connection("127.0.0.1", broker_port)
            await _first(self._requests(link, reader, broker_writer), self._answers(link, answers))
        except OSError:
            pass  # The broker is away, or one side hung up.
        finally:
            self._links.discard(link)
            if broker_writer is not None:
                broker_writer.transport.abort()
            _reset(link)

    async def _requests(
        self, link: _Link, reader: asyncio.StreamReader, broker: asyncio.StreamWriter
    ) -> None:
        while True:
            frame = await _frame(reader)
            api_key, version, correlation, name_length = struct.unpack_from(">hhih", frame, 4)
            client = frame[14 : 14 + max(name_length, 0)].decode()
            link.client = _PARTITIONS.sub("", client)
            self.heard_at[link.client] = time.monotonic()
            self.requests[api_key] += 1
            await self._weather()
            link.half_open |= link.client in self._cut_off
            if link.half_open:
                continue
            if api_key == END_TXN and self.end_txn_seconds:
                await asyncio.sleep(self.end_txn_seconds)
            link.pending[correlation] = (api_key, version, frame)
            for straggler in self._stragglers:
                if (straggler.client, straggler.api_key) == (link.client, api_key):
                    self._stragglers.remove(straggler)
                    self._under_way.append(
                        asyncio.ensure_future(self._straggle(straggler, link, frame))
                    )
                    straggler.left.set()
                    return
            ambush = self._ambushes.get(link.client)
            strikes = ambush is not None and ambush.api_key == api_key
            if ambush is not None and strikes and ambush.before:
                self._spring(ambush)
                return
            broker.write(frame)
            await broker.drain()
            if ambush is not None and strikes:
                self._spring(ambush)

    async def _straggle(self, straggler: Straggler, link: _Link, frame: bytes) -> None:
        await straggler.may_arrive.wait()
        answers, broker = await asyncio.open_connection("127.0.0.1", link.broker_port)
        broker.write(frame)
        await _frame(answers)
        broker.close()
        straggler.answered.set()

    async def _answers(self, link: _Link, reader: asyncio.StreamReader) -> None:
        while True:
            frame = await _frame(reader)
            await self._weather()
            (correlation,) = struct.unpack_from(">i", frame, 4)
            self._note(link.client, link.pending.pop(correlation, None), frame)
            if link.half_open:
                continue
            if link.torn:
                link.client_writer.write(frame[: len(frame) // 2])
                return
            link.client_writer.write(frame)
            await link.client_writer.drain()

    async def _weather(self) -> None:
        if self.latency_seconds:
            await asyncio.sleep(self.latency_seconds)
        await self._open.wait()

    def _spring(self, ambush: Ambush) -> None:
        if self._ambushes.pop(ambush.client, None) is ambush:
            ambush.strike()
            ambush.sprung.set()

    def _note(self, client: str, request: tuple[int, int, bytes] | None, answer: bytes) -> None:
        """See whether this answer has moved positions of the client."""
        if request is None:
            return
        api_key, version, frame = request
        if api_key == TXN_OFFSET_COMMIT:
            self._sent_offsets.add(client)
        elif api_key == OFFSET_COMMIT:
            self.committed_at[client] = time.monotonic()
        elif api_key == END_TXN:
            tagged = version >= _END_TXN_FLEXIBLE
            (refused,) = struct.unpack_from(">h", answer, 13 if tagged else 12)
            commits = frame[-2 if tagged else -1]
            if commits and not refused and client in self._sent_offsets:
                self.committed_at[client] = time.monotonic()
            self._sent_offsets.discard(client)


async def _frame(reader: asyncio.StreamReader) -> bytes:
    """One request or answer with its length in front. Raises OSError at the end."""
    try:
        size = await reader.readexactly(4)
        return size + await reader.readexactly(int.from_bytes(size))
    except asyncio.IncompleteReadError:
        raise ConnectionResetError from None


async def _first(*ways: Coroutine[Any, Any, None]) -> None:
    """Run until one of them ends. Raises what it raises."""
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _reset(link: _Link) -> None:
    """Close with RST, as a machine does that has forgotten the connection."""
    sock = link.client_writer.get_extra_info("socket")
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    link.client_writer.transport.abort()
