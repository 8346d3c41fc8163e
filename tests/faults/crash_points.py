"""Named crash points: a process of a stage kills itself before, amid or after any of its effects.

The product has no switch for it. What it is given, its clients, its sink and its sink's client, is
wrapped, so that every effect there is, and every one that will be added to a protocol, is a point.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from pipeline.record import Record, Sink
from streams.clients import (
    Clients,
    Clock,
    GroupConsumer,
    Place,
    TransactionalWriter,
    Writer,
)

MOMENTS = ("before", "amid", "after")

#: What changes nothing outside of the process: dying before it is dying after the effect before it.
_LOCAL = frozenset(
    {"read", "committed", "assign", "unassign", "pause", "resume", "membership", "ahead", "forget"}
)

#: What happens once in a session, at its beginning or its end.
_ONCE = ("fence", "subscribe", "restore", "abort", "close")

#: How long a request is under way when the process dies; whether it arrives is left to chance.
_UNDER_WAY_SECONDS = 0.002


def effects(protocol: type) -> tuple[str, ...]:
    """The methods of a protocol that change something outside."""
    return tuple(
        name
        for name, member in vars(protocol).items()
        if callable(member) and not name.startswith("_") and name not in _LOCAL
    )


def _points(role: str, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{moment} {role}.{name}" for name in names for moment in MOMENTS)


#: Transactions carry the positions; the consumer itself commits none.
_TRANSACTING = (
    *_points("transaction", effects(TransactionalWriter)),
    *_points("consumer", [name for name in effects(GroupConsumer) if name != "commit"]),
)
_DELIVERING = (
    *_points("consumer", effects(GroupConsumer)),
    *_points("sink", effects(Sink)),
    *_points("writer", effects(Writer)),
)
_RESTORING = ("amid changelog.restore",)

#: Stage → where its processes may die.
POINTS: Mapping[str, tuple[str, ...]] = {
    "intake": _TRANSACTING,
    "tally": _TRANSACTING + _RESTORING,
    "bill": _TRANSACTING + _RESTORING,
    "clickhouse": _DELIVERING,
    # The attempt is committed as a note before the sink gets it.
    "stripe": _DELIVERING + _points("consumer", ("note",)),
}


def is_once(point: str) -> bool:
    """Whether a life comes to this point only once."""
    return point.endswith(_ONCE)


@dataclass
class Death:
    """How a life of a stage ends: at the `number`-th time that it comes to `point`, by `signal`.

    Just before, `stage: point` is added to the file `witness`.
    """

    stage: str
    point: str
    number: int = 1
    witness: Path | None = None
    signal: signal.Signals = signal.SIGKILL
    #: Whether the sink has written since positions were committed.
    has_written: bool = False
    #: Whether the sink's client is to die after its first call of a write, before its second.
    is_armed: bool = False
    calls: int = 0
    commits: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    _times: int = 0

    def at(self, point: str) -> None:
        """Die, if this is the point."""
        if self.is_due(point):
            self.come()

    def is_due(self, point: str) -> bool:
        """Whether this is the point, for the `number`-th time."""
        if point != self.point:
            return False
        self._times += 1
        return self._times == (1 if is_once(point) else self.number)

    def come(self) -> None:
        """Die, or freeze, here and now."""
        if self.witness is not None:
            with self.witness.open("a") as witness:
                witness.write(f"{self.stage}: {self.point}\n")
        os.kill(os.getpid(), self.signal)

    def trouble(self) -> None:
        """A session that is to die at its end needs a reason to end: its `number`-th commit fails.

        Raises:
            KafkaException: this one does.
        """
        if self.point.endswith((".abort", ".close")):
            self.commits += 1
            if self.commits == self.number:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "a planted trouble"))


def drawn(stage: str, rng: Random, within: int) -> Death:
    """A death at any point of a stage, at one of the first `within` times."""
    return Death(stage, rng.choice(POINTS[stage]), rng.randint(1, within))


class _Mortal:
    """Something of which any effect may be the last one of this process."""

    def __init__(self, role: str, inner: object, protocol: type, death: Death) -> None:
        self._role = role
        self._inner = inner
        self._effects = effects(protocol)
        self._death = death

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        return partial(self._do, name, method) if name in self._effects else method

    def _do(self, name: str, method: Callable[..., Any], *arguments: Any) -> Any:
        death = self._death
        point = f"{self._role}.{name}"
        if name == "commit":
            death.trouble()
            if self._role == "consumer":
                # Before the sink has written, it is the attempt that is noted.
                point = point if death.has_written else "consumer.note"
                death.has_written = False
        death.at(f"before {point}")
        if death.is_due(f"amid {point}"):
            self._begin(point, method, *arguments)
        answer = method(*arguments)
        death.at(f"after {point}")
        return answer

    def _begin(self, point: str, method: Callable[..., Any], *arguments: Any) -> None:
        """Do about half of it, and die."""
        if point in ("transaction.write", "writer.write"):
            (outgoing,) = arguments
            method(outgoing[: (len(outgoing) + 1) // 2])
        else:
            thread = threading.Thread(target=method, args=arguments, daemon=True)
            thread.start()
            thread.join(_UNDER_WAY_SECONDS)
        self._death.come()


class MortalSink(_Mortal):
    """A sink; amid a write its client dies between two calls, see `mortal_client`."""

    def __init__(self, sink: Sink, death: Death) -> None:
        super().__init__("sink", sink, Sink, death)

    def write(self, records: Sequence[Record], now_ms: int) -> Any:
        """Write, or die of it."""
        death = self._death
        death.at("before sink.write")
        death.calls = 0
        death.is_armed = death.point == "amid sink.write"
        written = self._inner.write(records, now_ms)  # type: ignore[attr-defined]
        death.has_written = True
        death.at("after sink.write")
        return written


def mortal_call(call: Callable[..., Any], death: Death) -> Callable[..., Any]:
    """A call of a sink's client: in an armed life the first of a write is done, a second is not."""

    def limited(*arguments: Any, **named: Any) -> Any:
        if not death.is_armed:
            return call(*arguments, **named)
        # One after the other, so that the first one has an end.
        with death.lock:
            death.calls += 1
            if death.calls == 2:
                death.at("amid sink.write")
            return call(*arguments, **named)

    return limited


class MortalDatabase:
    """A ClickHouse connection whose process may die between two INSERTs of one write."""

    def __init__(self, connection: Any, death: Death) -> None:
        self._connection = connection
        self._death = death

    @contextmanager
    def client(self) -> Iterator[Any]:
        """The client, for one piece of work."""
        with self._connection.client() as client:
            yield SimpleNamespace(insert_arrow=mortal_call(client.insert_arrow, self._death))


def mortal_stripe(client: Any, death: Death) -> Any:
    """A Stripe client whose process may die between two deltas of one write."""
    create = mortal_call(client.v1.billing.meter_events.create, death)
    events = SimpleNamespace(create=create)
    return SimpleNamespace(v1=SimpleNamespace(billing=SimpleNamespace(meter_events=events)))


class MortalClients:
    """Clients of Kafka whose process may die at any effect."""

    def __init__(self, clients: Clients, death: Death) -> None:
        self._clients = clients
        self._death = death

    @property
    def clock(self) -> Clock:
        """The time."""
        return self._clients.clock

    def consumer(self, stage: str, instance: str) -> Any:
        """A member of the stage's group."""
        inner = self._clients.consumer(stage, instance)
        return _Mortal("consumer", inner, GroupConsumer, self._death)

    def transactional_writer(self, stage: str, instance: str) -> Any:
        """A producer of this instance's transactional id."""
        inner = self._clients.transactional_writer(stage, instance)
        return _Mortal("transaction", inner, TransactionalWriter, self._death)

    def writer(self, stage: str, instance: str) -> Any:
        """A producer without transactions."""
        return _Mortal("writer", self._clients.writer(stage, instance), Writer, self._death)

    def partition_counts(self) -> Mapping[str, int]:
        """The topics that exist."""
        return self._clients.partition_counts()

    def next_records(self, positions: Mapping[Place, int | None]) -> Mapping[Place, int]:
        """The first record from each position on."""
        return self._clients.next_records(positions)

    def end_of(self, topic: str, partition: int) -> int:
        """Where a partition ends."""
        return self._clients.end_of(topic, partition)

    def read_all(self, topic: str) -> Iterator[Record]:
        """Committed records."""
        return self._clients.read_all(topic)

    def firsts(self, topic: str) -> Iterator[Record]:
        """The first of each partition."""
        return self._clients.firsts(topic)

    def read_to_end(self, topic: str, partition: int, begin: int) -> Iterator[Record]:
        """Committed records; a restore may end after its first one."""
        for record in self._clients.read_to_end(topic, partition, begin):
            yield record
            self._death.at("amid changelog.restore")
