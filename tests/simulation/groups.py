"""Consumer groups as the broker keeps them: static members, generations, eager assignment by range.

A member that is not heard for the session time-out is thrown out. A rebalance ends when every
member that is heard has joined again, so it waits for work in hand. A static member that starts
again gets its old share back without a rebalance, and its former self is shut out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from confluent_kafka import KafkaError, KafkaException

from streams.clients import Committed, Place
from tests.simulation.world import Process, World

if TYPE_CHECKING:
    from tests.simulation.broker import Transaction

_SESSION_SECONDS = 10.0
_LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Membership:
    """What a member can prove: who it is, and since which generation."""

    instance: str
    number: int
    generation: int


@dataclass
class _Member:
    number: int
    process: Process
    topics: Sequence[str]
    heard_at: float
    #: Whether it has joined the generation that is being formed.
    has_joined: bool = False
    #: Whether its client was closed: it is heard no more, but only missed later.
    is_silent: bool = False
    share: list[Place] = field(default_factory=list)


class Group:
    """One consumer group."""

    def __init__(self, world: World, topics: Mapping[str, int]) -> None:
        self.committed: dict[Place, Committed] = {}
        #: Transactions that carry positions of this group and are not decided here.
        self.pending: list[Transaction] = []
        self.generation = 0
        self._world = world
        self._topics = topics
        self._members: dict[str, _Member] = {}
        self._forming = False
        self._numbers = 0
        world.at(_LOOK_SECONDS, self._look_for_silent_members)

    def join(self, instance: str, topics: Sequence[str], number: int | None) -> int:
        """Join, or join again as `number`; the member's number.

        Raises:
            KafkaException: another one has this name by now.
        """
        known = self._members.get(instance)
        if number is not None and known is not None and known.number != number:
            raise KafkaException(KafkaError(KafkaError.FENCED_INSTANCE_ID))
        process = self._world.current()
        if known is None or number is None:
            self._numbers += 1
            number = self._numbers
        if known is None:
            self._members[instance] = _Member(number, process, topics, self._world.now)
            self._form()
        else:
            known.number, known.process, known.topics = number, process, topics
            known.heard_at, known.is_silent = self._world.now, False
        if self._forming:
            self._members[instance].has_joined = True
            self._complete()
        return number

    def state_of(self, instance: str, number: int) -> str:
        """What a member learns when it is heard: "stable", "rebalancing", "lost" or "fenced"."""
        member = self._members.get(instance)
        if member is None:
            return "lost"
        if member.number != number:
            return "fenced"
        return "rebalancing" if self._forming else "stable"

    def has_joined(self, instance: str) -> bool:
        """Whether a member waits for the generation that is being formed."""
        return self._members[instance].has_joined

    def share_of(self, instance: str) -> list[Place]:
        """What a member owns in this generation."""
        return list(self._members[instance].share)

    def leave_off(self, instance: str, number: int) -> None:
        """A static member closes: the group waits for it until its session times out."""
        member = self._members.get(instance)
        if member is not None and member.number == number:
            member.is_silent = True

    def require(self, proof: Membership) -> None:
        """Let only a member of this generation commit.

        Raises:
            KafkaException: it is none.
        """
        member = self._members.get(proof.instance)
        if member is None:
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_MEMBER_ID))
        if member.number != proof.number:
            raise KafkaException(KafkaError(KafkaError.FENCED_INSTANCE_ID))
        if proof.generation != self.generation:
            raise KafkaException(KafkaError(KafkaError.ILLEGAL_GENERATION))

    def is_undecided(self, places: Sequence[Place]) -> bool:
        """Whether a transaction that carries positions of `places` is not decided here."""
        return any(
            place in positions
            for transaction in self.pending
            for positions in transaction.positions.values()
            for place in places
        )

    def _form(self) -> None:
        """Begin a rebalance."""
        self._forming = True
        for member in self._members.values():
            member.has_joined = False

    def _complete(self) -> None:
        """End the rebalance, if nobody is waited for."""
        if not all(member.has_joined for member in self._members.values()):
            return
        self.generation += 1
        self._forming = False
        for member in self._members.values():
            member.has_joined = False
            member.share = []
        self._world.note(f"generation {self.generation} of {sorted(self._members)}")
        for topic in sorted(
            {topic for member in self._members.values() for topic in member.topics}
        ):
            names = sorted(name for name, member in self._members.items() if topic in member.topics)
            count = self._topics[topic]
            each, more = divmod(count, len(names))
            begin = 0
            for rank, name in enumerate(names):
                end = begin + each + (rank < more)
                self._members[name].share += [(topic, number) for number in range(begin, end)]
                begin = end

    def _look_for_silent_members(self) -> None:
        now = self._world.now
        for name, member in list(self._members.items()):
            if self._world.is_heard(member.process) and not member.is_silent:
                member.heard_at = now
            elif now - member.heard_at > _SESSION_SECONDS:
                self._world.note(f"{name} is thrown out")
                del self._members[name]
                self._form()
        if self._forming and self._members:
            self._complete()
        self._world.at(_LOOK_SECONDS, self._look_for_silent_members)
