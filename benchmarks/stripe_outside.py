"""What surrounds the delivery loop while it flushes an outbox: Kafka, the wire, Stripe's limits.

All of it lives in virtual time. Kafka is a list in memory, and commits take no time. On the wire a
call takes `call_seconds`, give or take a half: calls arrive less evenly than they were sent. The
account at its other end is the stand-in's own, which refuses a second call for a customer and meter
while one is in flight (409); the rate limit is added here.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from random import Random
from threading import Event

from benchmarks.virtual_time import VirtualTime
from pipeline.record import Outgoing, Record, Records
from schemas.topics import OUTBOX
from sinks.stripe.account import Account, Answer, Call, Fault
from sinks.stripe.wire import Wire
from streams.clients import Clock, Committed, Place, Rebalanced

_PARTITION = 0
_PLACE = (OUTBOX.name, _PARTITION)


class RateLimit:
    """At most `calls` in any second that passes, or 429, for a `faults` of the stand-in.

    Stricter than what is known of Stripe: any second counts, not those of a clock, and whoever is
    refused has used up his call.
    """

    def __init__(self, calls: int, time: VirtualTime) -> None:
        self._calls = calls
        self._time = time
        self._recent: deque[float] = deque()
        self.refused = 0
        #: The most calls in one second.
        self.most = 0

    def __call__(self, _call: Call) -> Fault | None:
        """Whether this call is one too many."""
        now = self._time.monotonic()
        # The spacing of calls adds up in binary floats: a microsecond is none of theirs.
        while self._recent and self._recent[0] <= now - 1 + 1e-6:
            self._recent.popleft()
        self._recent.append(now)
        self.most = max(self.most, len(self._recent))
        if len(self._recent) > self._calls:
            self.refused += 1
            return Fault.RATE_LIMITED
        return None


class SlowWire(Wire):
    """A wire on which a call takes its time; counts the answers by their status."""

    name = "virtual"

    def __init__(self, account: Account, time: VirtualTime, call_seconds: float) -> None:
        super().__init__(account)
        self._time = time
        self._call_seconds = call_seconds
        self._random = Random(0)
        self.answers = Counter[int | None]()

    def carry(self, call: Callable[[], Answer]) -> Answer:
        """One call."""
        self._travel()
        answer = call()
        self._travel()
        self.answers[answer.status] += 1
        return answer

    def _travel(self) -> None:
        self._time.sleep(self._call_seconds / 2 * self._random.uniform(0.5, 1.5))


class MemoryKafka:
    """The outbox and the deliveries, for one member of one group; sets `drained` at the end."""

    def __init__(self, outbox: Sequence[bytes], clock: Clock) -> None:
        self._clock = clock
        self._outbox = outbox
        self._next = 0
        self._paused = False
        self._assigned: Rebalanced | None = None
        self.drained = Event()
        self.deliveries: list[Outgoing] = []
        self.committed_offset = 0

    @property
    def clock(self) -> Clock:
        """The virtual time."""
        return self._clock

    def consumer(self, stage: str, instance: str) -> MemoryKafka:
        """The only one."""
        del stage, instance
        return self

    def writer(self, stage: str, instance: str) -> MemoryKafka:
        """The only one."""
        del stage, instance
        return self

    def next_records(self, positions: Mapping[Place, int | None]) -> Mapping[Place, int]:
        """There is nothing but records."""
        return {place: at or 0 for place, at in positions.items()}

    def subscribe(
        self, topics: Sequence[str], on_assign: Rebalanced, on_revoke: Rebalanced
    ) -> None:
        """The partition is given with the first read."""
        del topics, on_revoke
        self._assigned = on_assign

    def read(self, count: int, wait_seconds: float) -> Records:
        """The next ones; when there are no more, the time for which it would wait passes."""
        if self._assigned is not None:
            assigned, self._assigned = self._assigned, None
            assigned([_PLACE])
        part = [] if self._paused else self._outbox[self._next : self._next + count]
        records = [
            Record(*_PLACE, self._next + number, 0, None, value)
            for number, value in enumerate(part)
        ]
        self._next += len(part)
        if not part:
            self._clock.sleep(wait_seconds)
        return Records(records)

    def committed(self, places: Sequence[Place]) -> Mapping[Place, Committed]:
        """Nothing yet."""
        return {place: Committed(None) for place in places}

    def commit(self, reached: Mapping[Place, Committed]) -> None:
        """Note the position; when it is the end, all is done."""
        self.committed_offset = reached[_PLACE].offset or 0
        if self.committed_offset == len(self._outbox):
            self.drained.set()

    def write(self, outgoing: Sequence[Outgoing]) -> Sequence[tuple[int, int]]:
        """Keep them."""
        self.deliveries += outgoing
        return [(_PARTITION, 0)] * len(outgoing)

    def assign(self, starts: Mapping[Place, int | None]) -> None:
        """From the beginning."""

    def unassign(self) -> None:
        """Nothing to forget."""

    def pause(self, places: Sequence[Place]) -> None:
        """Give out nothing."""
        self._paused = self._paused or bool(places)

    def resume(self, places: Sequence[Place]) -> None:
        """Give out again."""
        self._paused = self._paused and not places

    def membership(self) -> object:
        """None."""
        return None

    def close(self) -> None:
        """Nothing to close."""
