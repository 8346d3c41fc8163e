"""Replay: one shard's log, folded anew into a shadow and compared with what live tally wrote.

The shadow is the fold of the log by `Tally`, which reads no clock, so every decision, every
alert and the newest total of each name must come out the same, field by field. The version of a
total says where a step of live tally ended, so the shadow's steps end at every version that a
newest total has, and the comparison includes the version. Totals that newer ones have replaced are
looked at only for growing versions.

Live tally may go on meanwhile: all that is compared lies before one cut, the offset in the log up
to which tally had confirmed its work.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from pipeline.difference import Compared, Difference, Differences
from pipeline.pack import Pack
from pipeline.replay_alerts import LiveAlerts
from pipeline.replay_decisions import LiveDecisions
from pipeline.replay_totals import LiveTotals, Name, Total, totals_in
from pipeline.route import Router
from pipeline.shard import Restore, Shard
from pipeline.tally import Tally
from schemas import topics
from schemas.alert import Alert
from schemas.frame import Frame, Kind, unseal

#: A step of the shadow may end once it has this many events; a record costs as much as some events.
STEP_EVENTS = 50_000
_RECORD_EVENTS = 100

#: Further than the records of one live transaction reach, with a marker after each of them.
_LIVE_STEP_OFFSETS_MAX = 20_000


@dataclass(frozen=True)
class Live:
    """What live tally wrote for one shard."""

    totals: LiveTotals
    decisions: LiveDecisions
    alerts: LiveAlerts

    @property
    def later(self) -> Set[int]:
        """Offsets from the cut on that totals or decisions name; known after the replay."""
        return self.totals.later | self.decisions.later

    def compare_later(self, packs: Set[int]) -> None:
        """Whatever is named from the cut on must be one of the `packs` that are there."""
        self.totals.compare_later(packs)
        self.decisions.compare_later(packs)


def restore_after(changelog: Iterable[Frame], first_offset: int, *, is_whole: bool) -> Shard | None:
    """The earliest state of a shard that knows all before `first_offset` of its log.

    Begins anew at each snapshot, as tally does at the last one, so that it holds no more than tally
    did. The state before is kept until the snapshot is complete: it may never be.

    `is_whole` tells that nothing of the changelog was deleted. None where no such state is kept.
    """
    restoring = Restore() if is_whole else None
    newer: Restore | None = None
    offset = -1
    for frame in changelog:
        if first_offset <= offset < frame.header["next_offset"]:
            break
        if frame.header["begins"]:
            newer = Restore()
        for each in filter(None, (restoring, newer)):
            each.take(frame)
        if newer is not None and newer.is_whole:
            restoring, newer = newer, None
        if restoring is not None and restoring.is_whole:
            offset = frame.header["next_offset"]
    return restoring.shard() if restoring is not None and offset >= first_offset else None


def replay_shard(
    number: int,
    shards: int,
    begin: Shard,
    log: Iterable[tuple[int, Frame]],
    live: Live,
    differences: Differences,
) -> Compared:
    """Fold `log`, (offset, frame) each, from the state `begin` on, and compare.

    Raises:
        Stop: the log, or what live tally wrote, cannot be read; or `begin` is of another shard.
    """
    begin.belong_to(number, shards)
    compared = Compared(shards=1)
    begin_offset = begin.next_offset
    live.decisions.begin_at(begin_offset)
    live.alerts.fired_before(begin)
    router = Router(shards)
    # Without a router: tally stops at a stray customer, and here each of them is told.
    tally = Tally()
    tally.add(number, begin)
    totals: dict[Name, Total] = {}
    alerts: list[Alert] = []
    for step in _steps(log, live.totals):
        packs = {offset: Pack(frame) for offset, frame in step if frame.kind is Kind.PACK}
        compared.packs += len(packs)
        compared.events += sum(map(len, packs.values()))
        for difference in _strays(number, router, packs):
            differences.add(difference)
        for outgoing in tally.step({number: step}):
            if outgoing.topic == topics.ALERTS.name:
                alerts.append(Alert.model_validate_json(outgoing.value or b""))
            elif outgoing.topic == topics.DECISIONS.name:
                frame = unseal(outgoing.value or b"")
                live.decisions.compare(packs[frame.header["pack_offset"]], frame, compared)
            elif outgoing.topic == topics.TOTALS.name:
                totals |= totals_in(unseal(outgoing.value or b""))
    live.decisions.finish()
    live.totals.compare(totals, begin_offset, compared)
    live.alerts.compare(number, alerts, differences)
    compared.alerts = len(alerts)
    return compared


def _strays(number: int, router: Router, packs: Mapping[int, Pack]) -> Iterator[Difference]:
    """Customers whose events lie in a shard that is not theirs."""
    for offset, pack in packs.items():
        for customer in sorted(set(pack.codes("customer")[1])):
            if router[customer] != number:
                problem = f"belongs to shard {router[customer]} of {router.shards}"
                yield Difference(
                    what="event", problem=problem, shard=number, offset=offset, customer=customer
                )


def _steps(log: Iterable[tuple[int, Frame]], live: LiveTotals) -> Iterator[list[tuple[int, Frame]]]:
    """The log cut into steps, so that every version of a newest total is the end of one.

    A step never ends inside of a live one in which something was counted: the usage over all groups
    beside a group's value is that at the end of the live step.
    """
    step: list[tuple[int, Frame]] = []
    size = 0
    for offset, frame in log:
        step.append((offset, frame))
        size += _RECORD_EVENTS + (frame.parts[0].num_rows if frame.kind is Kind.PACK else 0)
        is_long = size >= STEP_EVENTS
        if offset in live.newest_ends or (is_long and _is_between_steps(offset, live.ends)):
            yield step
            step, size = [], 0
    if step:
        yield step


def _is_between_steps(offset: int, ends: Sequence[int]) -> bool:
    """Whether the next live step in which something was counted begins after `offset`."""
    at = bisect_left(ends, offset)
    if at == len(ends) or ends[at] == offset:
        return True
    return ends[at] - offset > _LIVE_STEP_OFFSETS_MAX
