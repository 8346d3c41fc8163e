"""The live alerts of one shard, beside those of its replay: each crossing once, and the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import TypeAlias

from pipeline.difference import Difference, Differences, instant, shown
from pipeline.periods import moment
from pipeline.shard import Shard
from schemas.alert import Alert

#: (customer, meter, period start in ms, threshold): what is crossed once.
Crossing: TypeAlias = tuple[str, str, int, str]


class LiveAlerts:
    """What usage.alerts holds for one shard.

    An alert does not say where its event lies in the log. So `before` are those that were decided
    before the cut was taken, which the replay must find again, and `after` those that were written
    until it was complete: some belong before the cut, and some may belong behind it.
    """

    def __init__(self, before: Iterable[Alert], after: Iterable[Alert] = ()) -> None:
        self._found: dict[Crossing, list[Alert]] = {}
        self._required: set[Crossing] = set()
        self._known: set[Crossing] = set()
        for alert in before:
            self._required.add(crossing(alert))
            self._found.setdefault(crossing(alert), []).append(alert)
        for alert in after:
            self._found.setdefault(crossing(alert), []).append(alert)

    def fired_before(self, begin: Shard) -> None:
        """Expect what had been crossed where the replay begins; only that it is there, once."""
        self._known = {
            (customer, meter, start_ms, threshold)
            for (meter, customer, start_ms, _), thresholds in begin.totals.all_fired()
            for threshold in thresholds
        }

    def compare(self, number: int, shadow: Iterable[Alert], differences: Differences) -> None:
        """Compare with the alerts of the replay of shard `number`."""
        expected = {crossing(alert): alert for alert in shadow}
        for name in sorted(expected.keys() | self._known | self._required):
            for fault in self._faults(name, expected.get(name)):
                differences.add(_of_alert(number, name, fault))

    def _faults(self, name: Crossing, ours: Alert | None) -> Iterator[str]:
        found = self._found.get(name, [])
        if ours is None and name not in self._known:
            yield f"{_threshold(name)} was announced, but no event in the log crosses it"
            return
        if not found:
            yield f"{_threshold(name)} was crossed, but the alert is missing on usage.alerts"
            return
        if len(found) > 1:
            yield f"{_threshold(name)} was announced {len(found)} times"
        if ours is not None and found[0] != ours:
            faults = (
                f"{field.replace('_', ' ')} is {shown(str(live))}, should be {shown(str(shadow))}"
                for field in Alert.model_fields
                if (live := getattr(found[0], field)) != (shadow := getattr(ours, field))
            )
            yield f"{_threshold(name)}: {'; '.join(faults)}"


def crossing(alert: Alert) -> Crossing:
    """What an alert announces."""
    return alert.customer, alert.meter, _ms(alert.period_start), alert.threshold


def _ms(time: datetime) -> int:
    return (time - moment(0)) // timedelta(milliseconds=1)


def _threshold(name: Crossing) -> str:
    return f"the threshold {shown(name[3])}"


def _of_alert(number: int, name: Crossing, problem: str) -> Difference:
    customer, meter, start_ms, _ = name
    return Difference(
        what="alert",
        problem=problem,
        shard=number,
        customer=customer,
        meter=meter,
        period_start=instant(start_ms),
    )
