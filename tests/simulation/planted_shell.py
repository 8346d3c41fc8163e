"""Mistakes of the transactional shell, of restoring, and of what a reader is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

from msgspec import structs

from pipeline.dedupe import IdTable
from pipeline.record import Outgoing, Record, Records
from pipeline.shard import Shard
from schemas import topics
from streams.clients import Committed, Place
from streams.session import Session
from streams.state_note import read_state_note
from streams.tally import TallyStage
from tests.simulation.broker import Log
from tests.simulation.clients import SimulatedClients, SimulatedTransactions
from tests.simulation.groups import Group
from tests.simulation.plant import Bug, replaced


def _apart(session: Any, outgoing: Sequence[Outgoing]) -> None:
    """One transaction without positions."""
    if outgoing:
        session._writer.begin()
        session._writer.write(outgoing)
        session._writer.commit()


def _reached(session: Any, part: Records) -> dict[Place, Committed]:
    return {
        (session._stage.input_topic, partition): Committed(
            offset, str(session._anchors.get(partition, ""))
        )
        for partition, offset in part.ends.items()
    }


def _in_two(first: Callable[[Outgoing], bool]) -> Callable[[Any], Any]:
    """Some outputs in a transaction of their own, before the rest."""

    def wrap(transact: Any) -> Any:
        def planted(self: Any, part: Records, outgoing: Sequence[Outgoing]) -> None:
            _apart(self, [record for record in outgoing if first(record)])
            transact(self, part, [record for record in outgoing if not first(record)])

        return planted

    return wrap


def _positions_first(transact: Any) -> Any:
    def planted(self: Any, part: Records, outgoing: Sequence[Outgoing]) -> None:
        self._consumer.commit(_reached(self, part))
        transact(self, part, outgoing)

    return planted


def _positions_afterwards(_: Any) -> Any:
    def planted(self: Any, part: Records, outgoing: Sequence[Outgoing]) -> None:
        _apart(self, outgoing)
        self._consumer.commit(_reached(self, part))
        self._counted |= part.ends

    return planted


def _positions_of_all_parts(transact: Any) -> Any:
    def planted(self: Any, part: Records, outgoing: Sequence[Outgoing]) -> None:
        part.__dict__["ends"] = dict(self._positions)
        transact(self, part, outgoing)

    return planted


def _alerts_afterwards(transact: Any) -> Any:
    def planted(self: Any, part: Records, outgoing: Sequence[Outgoing]) -> None:
        others = [record for record in outgoing if record.topic != topics.ALERTS.name]
        transact(self, part, others)
        _apart(self, [record for record in outgoing if record.topic == topics.ALERTS.name])

    return planted


def _once_more(transact: Any) -> Any:
    """A commit without an answer is taken for a failure, and done again."""

    def planted(self: Any, part: Records, outgoing: Sequence[Outgoing]) -> None:
        try:
            transact(self, part, outgoing)
        except Exception:
            self._writer.abort()
            self._writer = self._clients.transactional_writer(self._stage.name, "again")
            self._writer.fence()
            transact(self, part, outgoing)

    return planted


def _keeps_batch(_: Any) -> Any:
    def planted(self: Any, _: Sequence[Place]) -> None:
        self._consumer.unassign()

    return planted


def _trusts_its_memory(assigned: Any) -> Any:
    def planted(self: Any, places: Sequence[Place]) -> None:
        forget = self._forget
        self._forget = lambda _: None
        for place, committed in self._consumer.committed(places).items():
            if place[1] in self._counted:
                self._counted[place[1]] = committed.offset
        assigned(self, places)
        self._forget = forget

    return planted


def _restored_without(spoil: Callable[[Shard], None]) -> Callable[[Any], Any]:
    def wrap(restore: Any) -> Any:
        def planted(self: Any, partition: int, changelog: Iterator[Record]) -> Any:
            position = restore(self, partition, changelog)
            spoil(self._tally.shards[partition])
            return position

        return planted

    return wrap


def _forget_ids(shard: Shard) -> None:
    shard.ids = IdTable()


def _stops_early(restore: Any) -> Any:
    """The last record of a changelog is not applied, but its position is believed."""

    def planted(self: Any, partition: int, changelog: Iterator[Record]) -> Any:
        records = list(changelog)
        position = restore(self, partition, iter(records))
        restore(self, partition, iter(records[:-1]))
        return position

    return planted


def _anchors_too_early(transact: Any) -> Any:
    """Takes a snapshot for complete as soon as it begins."""

    def planted(self: Any, part: Records, outgoing: Sequence[Outgoing]) -> None:
        transact(self, part, [structs.replace(each, completes=each.begins) for each in outgoing])

    return planted


def _restores_too_soon(_: Any) -> Any:
    """Does not wait until the state is as new as the positions."""

    def planted(self: Any, place: Place, committed: Committed, _: float) -> int | None:
        if self._stage.state_topic is None:
            return committed.offset
        anchor = read_state_note(place, committed.note) or 0
        self._stage.restore(
            place[1], self._clients.read_to_end(self._stage.state_topic, place[1], anchor)
        )
        self._anchors[place[1]] = anchor
        return committed.offset

    return planted


def _moves_on_to_the_end(_: Any) -> Any:
    """Takes all that nobody has read yet for markers."""

    def planted(self: Any, positions: Mapping[Place, int | None]) -> Mapping[Place, int]:
        return {place: self._broker.logs[place].stable_end for place in positions}

    return planted


def _moves_on_from_offset_0(next_records: Any) -> Any:
    """Takes the beginning of what was deleted for that of what is left."""

    def planted(self: Any, positions: Mapping[Place, int | None]) -> Any:
        return next_records(self, {place: at or 0 for place, at in positions.items()})

    return planted


def _moves_on_without_state(_: Any) -> Any:
    """Whoever restores the state waits for more."""

    def planted(self: Any, partition: int, offset: int) -> Sequence[Outgoing]:
        del self, partition, offset
        return ()

    return planted


def _goes_on_after_a_break(begin: Any) -> Any:
    """The transaction after one in which a connection broke has the same epoch."""

    def planted(self: Any) -> None:
        self._has_break = False
        begin(self)

    return planted


def _shows_all(log: Log) -> int:
    return len(log.entries)


def _shows_aborted(log: Log, begin: int, end: int) -> Iterator[Record]:
    return (entry.record for entry in log.entries[begin:end] if entry.record is not None)


SHELL = (
    Bug(
        "claim before write: identities in a transaction before the totals",
        replaced(Session, "transact", _in_two(lambda r: r.topic == topics.TALLY_STATE.name)),
    ),
    Bug(
        "a restore that begins at a snapshot which is not complete",
        replaced(Session, "transact", _anchors_too_early),
    ),
    Bug(
        "totals before the identities that they count",
        replaced(Session, "transact", _in_two(lambda r: r.topic != topics.TALLY_STATE.name)),
    ),
    Bug(
        "rejections outside the transaction",
        replaced(Session, "transact", _in_two(lambda r: r.topic == topics.REJECTED.name)),
    ),
    Bug(
        "alerts outside the transaction, before it",
        replaced(Session, "transact", _in_two(lambda r: r.topic == topics.ALERTS.name)),
    ),
    Bug(
        "alerts outside the transaction, after it",
        replaced(Session, "transact", _alerts_afterwards),
    ),
    Bug(
        "input offsets committed before the effects",
        replaced(Session, "transact", _positions_first),
    ),
    Bug(
        "input offsets committed outside the transaction, after it",
        replaced(Session, "transact", _positions_afterwards),
    ),
    Bug(
        "the first part of a batch commits the positions of all of it",
        replaced(Session, "transact", _positions_of_all_parts),
    ),
    Bug("a commit without an answer is repeated", replaced(Session, "transact", _once_more)),
    Bug(
        "a transaction that a request of the one before may still reach",
        replaced(SimulatedTransactions, "begin", _goes_on_after_a_break),
    ),
    Bug(
        "positions move on past records that are not done",
        replaced(SimulatedClients, "next_records", _moves_on_to_the_end),
    ),
    Bug(
        "positions move on from offset 0 where nothing was ever committed",
        replaced(SimulatedClients, "next_records", _moves_on_from_offset_0),
    ),
    Bug(
        "positions move on without a word to the state",
        replaced(TallyStage, "move_on", _moves_on_without_state),
    ),
    Bug(
        "a missing fence: offsets without the group's generation",
        lambda: mock.patch.object(Group, "require", return_value=None),
    ),
    Bug(
        "an owner does not wait for transactions that are being decided",
        lambda: mock.patch.object(Group, "is_undecided", return_value=False),
    ),
    Bug(
        "work in hand survives the loss of its partition",
        replaced(Session, "_revoked", _keeps_batch),
    ),
    Bug(
        "state in memory is trusted after another owner counted",
        replaced(Session, "_assigned", _trusts_its_memory),
    ),
    Bug("a restore that stops early", replaced(TallyStage, "restore", _stops_early)),
    Bug("a restore that begins too soon", replaced(Session, "_restore", _restores_too_soon)),
    Bug(
        "a restore forgets identities",
        replaced(TallyStage, "restore", _restored_without(_forget_ids)),
    ),
    Bug(
        "a restore forgets which thresholds have fired",
        replaced(
            TallyStage, "restore", _restored_without(lambda shard: shard.totals["fired"].fill(0))
        ),
    ),
    Bug(
        "readers see what is not decided",
        lambda: mock.patch.object(Log, "stable_end", property(_shows_all)),
    ),
    Bug(
        "readers see what was aborted", lambda: mock.patch.object(Log, "committed", _shows_aborted)
    ),
)
