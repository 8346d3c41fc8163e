"""What a million events a second need, worked out from what one event costs and leaves behind."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.expire import DEDUPE_DAYS
from schemas import topics

#: How busy a core is planned to be: the rest is for peaks and for catching up.
_BUSY = 0.6
_REPLICAS = 3

#: A machine to count in.
_HOST_CORES = 16
_HOST_MEMORY_BYTES = 128e9
_HOST_DISK_BYTES = 20e12
_HOST_NETWORK_BYTES = 10e9 / 8

_DAY_SECONDS = 86_400


@dataclass(frozen=True)
class Need:
    """How much of something, how that follows, and how many machines it fills."""

    what: str
    how: str
    amount: str
    hosts: float


@dataclass(frozen=True)
class Model:
    """Microseconds of processor time and bytes, for one event or one id."""

    intake_us: float
    tally_us: float
    broker_us: float
    disk_bytes: dict[str, float]
    id_bytes: float
    events_per_second: int = 1_000_000

    @classmethod
    def of(cls, results: dict[str, Any]) -> Model:
        """From what `benchmarks.scaling` has measured: costs on Kafka, and ids at their largest."""
        point = results["kafka"][0]
        ids = results["ids"]
        # Sizes of a grown table; the smallest ones are mostly empty.
        settled = [one["bytes_per_id"] for one in ids if one["ids"] * 100 >= ids[-1]["ids"]]
        return cls(
            point["intake"]["cpu_us"]["intake"],
            point["tally"]["cpu_us"]["tally"],
            sum(point[part]["cpu_us"]["broker"] for part in ("sending", "intake", "tally")),
            point["disk_bytes_per_event"],
            max(settled),
        )

    def needs(self) -> list[Need]:
        """All that grows with the rate."""
        rate = self.events_per_second
        ids = rate * _DAY_SECONDS * DEDUPE_DAYS
        retained_days = {
            topic.name: topic.retention_ms / topics.DAY_MS for topic in topics.CATALOGUE
        }
        kept = {name: size for name, size in self.disk_bytes.items() if retained_days[name] > 0}
        disk = sum(
            size * rate * _DAY_SECONDS * retained_days[name] * _REPLICAS
            for name, size in kept.items()
        )
        written = sum(self.disk_bytes.values())
        network = written * rate * (_REPLICAS + 1)
        return [
            self._cores("intake", self.intake_us, 1),
            self._cores("tally", self.tally_us, 1),
            self._cores("brokers", self.broker_us, _REPLICAS),
            Need(
                "brokers' network",
                f"{written:.0f} B an event on the log, {_REPLICAS} replicas and a reader",
                f"{network / 1e9:,.1f} GB/s",
                network / _HOST_NETWORK_BYTES,
            ),
            Need(
                "brokers' disks",
                f"{sum(kept.values()):.0f} B an event, kept as in the catalogue, "
                f"{_REPLICAS} replicas; without tally's state",
                f"{disk / 1e12:,.0f} TB",
                disk / _HOST_DISK_BYTES,
            ),
            Need(
                "tally's memory for ids",
                f"{DEDUPE_DAYS} days, {self.id_bytes:.0f} B an id when a table has just grown",
                f"{ids * self.id_bytes / 1e12:,.0f} TB",
                ids * self.id_bytes / _HOST_MEMORY_BYTES,
            ),
        ]

    def rows(self) -> Iterator[tuple[str, ...]]:
        """What, how it follows, how much, and machines that this fills."""
        for need in self.needs():
            yield need.what, need.how, need.amount, f"{math.ceil(need.hosts):,}"

    def bottleneck(self) -> str:
        """What fills most machines, and from which rate on it fills one."""
        first = max(self.needs(), key=lambda need: need.hosts)
        rate = self.events_per_second / first.hosts
        return (
            f"{first.what}. One machine of {_HOST_CORES} cores, {_HOST_MEMORY_BYTES / 1e9:.0f} GB "
            f"and {_HOST_DISK_BYTES / 1e12:.0f} TB is full of it at {rate:,.0f} events a second."
        )

    def _cores(self, what: str, cost_us: float, times: int) -> Need:
        cores = cost_us * times * self.events_per_second / 1e6 / _BUSY
        how = f"{cost_us:.2f} µs an event, {_BUSY:.0%} busy"
        if times > 1:
            how += f", {times} replicas that cost as much each"
        return Need(what, how, f"{math.ceil(cores):,} cores", cores / _HOST_CORES)
