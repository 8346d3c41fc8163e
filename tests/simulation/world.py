"""A world in which everything happens in one order that a seed decides.

Processes are greenlets: real, synchronous code that runs undisturbed between two effects. At every
effect (a call of a simulated client) the scheduler may delay it, lose the request or the answer,
kill the process before or after it, or freeze the process for a while. Time passes only by waiting.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, fields
from random import Random
from typing import TypeVar

from greenlet import getcurrent, greenlet

Answer = TypeVar("Answer")

#: What one call takes, in seconds: nearly always little.
_LATENCY_SECONDS = 0.002

#: An answer that never comes is given up after so long, in seconds.
_PATIENCE_SECONDS = 5.0

_FROZEN_SECONDS = (0.1, 30.0)
_START_SECONDS = (0.05, 12.0)


class Killed(BaseException):
    """kill -9: whatever catches this can have no effect any more."""


@dataclass
class Faults:
    """How likely each fault is at one effect, from 0 to 1."""

    kill: float = 0.0
    lost_request: float = 0.0
    lost_answer: float = 0.0
    freeze: float = 0.0
    slow: float = 0.0
    doubled: float = 0.0
    resent: float = 0.0

    @classmethod
    def drawn(cls, rng: Random) -> Faults:
        """Some faults often, others not at all: that finds more than a bit of everything."""
        return cls(**{fault.name: rng.choice((0.0, 0.002, 0.01, 0.04)) for fault in fields(cls)})


@dataclass(eq=False)
class Process:
    """One operating system process: what it runs can be killed, frozen and started again."""

    name: str
    main: Callable[[], None]
    lives: int = 0
    frozen_until: float = 0.0
    dead: bool = True
    run: greenlet | None = None
    #: What ended it, if it was not a kill.
    failure: BaseException | None = None


class World:
    """Time, chance, processes, and a trace of all that happened."""

    def __init__(self, seed: object, faults: Faults | None = None, *, keeps_trace: bool = False):
        self.rng = Random(f"world {seed}")
        self.faults = faults or Faults()
        self.now = 0.0
        #: Milliseconds since 1970 at the beginning; may be moved on by hand.
        self.epoch_ms = 0
        self.processes: list[Process] = []
        self.trace: list[str] = []
        #: How often each fault has struck.
        self.struck: dict[str, int] = {}
        #: Every effect that was reached: its name, and how often.
        self.effects: dict[str, int] = {}
        #: Effects that have begun and have no answer yet.
        self.in_flight: list[str] = []
        self._keeps_trace = keeps_trace
        self._hash = hashlib.sha256()
        #: When, in which order among those of one moment, and what happens.
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._scheduler = getcurrent()

    # What processes see -------------------------------------------------------------------------

    def monotonic(self) -> float:
        """Seconds since the beginning."""
        return self.now

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return self.epoch_ms + int(self.now * 1000)

    def sleep(self, seconds: float) -> None:
        """Wait, as the process that is running."""
        process = self._current()
        if process.dead:
            raise Killed
        run = getcurrent()
        self.at(seconds, lambda: self._wake(process, run))
        self._scheduler.switch()

    def effect(
        self,
        name: str,
        apply: Callable[[], Answer],
        unanswered: Callable[[], BaseException],
        *,
        late: Callable[[], None] | None = None,
        partly: Callable[[], object] | None = None,
        repeats: bool = False,
        resent: Callable[[], None] | None = None,
    ) -> Answer:
        """One effect on the world outside the process, with whatever goes wrong.

        A lost request may still arrive, if `late` says how; `partly` is what a request may have
        done when it was cut off in the middle; one that `repeats` may arrive twice. `resent` hears
        that it is the second copy that was answered, and the first one arrives `late`.

        Raises:
            BaseException: what `unanswered` makes, when no answer comes.
        """
        self.effects[name] = self.effects.get(name, 0) + 1
        self.in_flight.append(name)
        try:
            answer = self._effect(name, apply, unanswered, late, partly, repeats=repeats)
            if resent and late and self._strikes("resent", self._current(), name):
                self.at(self.rng.uniform(0, 20), late)
                resent()
            return answer
        finally:
            self.in_flight.remove(name)

    def _effect(
        self,
        name: str,
        apply: Callable[[], Answer],
        unanswered: Callable[[], BaseException],
        late: Callable[[], None] | None,
        partly: Callable[[], object] | None,
        *,
        repeats: bool,
    ) -> Answer:
        process = self._current()
        self.sleep(self._latency())
        if self._strikes("freeze", process, name):
            process.frozen_until = self.now + self.rng.uniform(*_FROZEN_SECONDS)
            self.sleep(0)
        before = self._strikes("kill", process, f"before {name}")
        if before or self._strikes("lost_request", process, name):
            if partly is not None:
                partly()
            if late is not None and self.rng.random() < 0.5:
                self.at(self.rng.uniform(0, 20), late)
            if before:
                self._die(process)
            self.sleep(_PATIENCE_SECONDS)
            raise unanswered()
        try:
            if repeats and self._strikes("doubled", process, name):
                apply()
            answer = apply()
        except BaseException as error:
            self.note(f"{process.name} {name}: {error!r}")
            raise
        self.note(f"{process.name} {name}")
        if self._strikes("kill", process, f"after {name}"):
            self._die(process)
        if self._strikes("lost_answer", process, name):
            self.sleep(_PATIENCE_SECONDS)
            raise unanswered()
        return answer

    # What the scheduler does --------------------------------------------------------------------

    def start(self, name: str, main: Callable[[], None]) -> Process:
        """A process that is started again, a while after it was killed."""
        process = Process(name, main)
        self.processes.append(process)
        self.at(self.rng.uniform(0, 1), lambda: self._begin(process))
        return process

    def at(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something after so many seconds."""
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), action))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            at, _, action = heapq.heappop(self._events)
            self.now = max(self.now, at)
            action()
        self.now = end

    def heal(self) -> None:
        """From now on nothing goes wrong any more."""
        self.note("healed")
        self.faults = Faults()
        for process in self.processes:
            process.frozen_until = self.now

    def end(self) -> None:
        """Kill everything."""
        for process in self.processes:
            self._kill(process)
        self._events.clear()

    def note(self, what: str) -> None:
        """Write to the trace."""
        line = f"{self.now:.6f} {what}"
        self._hash.update(line.encode())
        if self._keeps_trace:
            self.trace.append(line)

    @property
    def trace_hash(self) -> str:
        """The same for the same seed."""
        return self._hash.hexdigest()[:16]

    def is_heard(self, process: Process) -> bool:
        """Whether its heartbeats arrive."""
        return not process.dead and process.frozen_until <= self.now

    def current(self) -> Process:
        """The process that is running."""
        return self._current()

    def _latency(self) -> float:
        if self.rng.random() < self.faults.slow:
            return self.rng.uniform(0, 12)
        return self.rng.expovariate(1 / _LATENCY_SECONDS)

    def _strikes(self, fault: str, process: Process, name: str) -> bool:
        rate: float = getattr(self.faults, fault)
        if not rate or self.rng.random() >= rate:
            return False
        self.struck[fault] = self.struck.get(fault, 0) + 1
        self.note(f"{process.name} {fault} {name}")
        return True

    def _current(self) -> Process:
        running = getcurrent()
        return next(process for process in self.processes if process.run is running)

    def _begin(self, process: Process) -> None:
        if not process.dead or process.failure is not None:
            return

        def live() -> None:
            try:
                process.main()
            except Killed:
                pass
            except Exception as failure:
                self.note(f"{process.name} ended: {failure!r}")
                process.failure = failure
            process.dead = True

        process.dead = False
        process.lives += 1
        process.frozen_until = self.now
        process.run = greenlet(live)
        self.note(f"{process.name} starts")
        process.run.switch()

    def _wake(self, process: Process, run: greenlet) -> None:
        if process.run is not run or process.dead:
            return  # killed meanwhile, and perhaps started again
        if process.frozen_until > self.now:
            self.at(process.frozen_until - self.now, lambda: self._wake(process, run))
        else:
            run.switch()

    def _die(self, process: Process) -> None:
        """Kill the process that is running."""
        process.dead = True
        self.at(self.rng.uniform(*_START_SECONDS), lambda: self._begin(process))
        raise Killed

    def _kill(self, process: Process) -> None:
        if process.dead or process.run is None:
            return
        process.dead = True
        process.run.throw(Killed)
