"""Whether merges keep up with the ClickHouse sink at full speed, minute after minute.

Each write leaves parts behind, and merges join them in the background, on the same cores. If they
fall behind, parts pile up: FINAL reads get slower with each, and at `parts_to_delay_insert` the
engine holds inserts back.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import SecretStr

from benchmarks.background import Background
from benchmarks.clickhouse_feed import Feed
from benchmarks.clickhouse_insert import wait_until_merged
from sinks.clickhouse.connect import Connection
from sinks.clickhouse.migrate import migrate
from sinks.clickhouse.write import ClickHouseSink

#: Merges kept up if the last third of the run had at most so many times the parts of the second
#: one. Parts grow with the logarithm of the rows even then.
GROWTH_MAX = 1.25

_SAMPLES = """
SELECT
    (SELECT count() FROM system.parts
     WHERE active AND database = currentDatabase() AND table = 'events'),
    (SELECT sum(rows) FROM system.parts
     WHERE active AND database = currentDatabase() AND table = 'events'),
    (SELECT count() FROM system.parts
     WHERE active AND database = currentDatabase() AND table = 'set_aside'),
    (SELECT count() FROM system.merges)
"""


@dataclass(frozen=True)
class Sample:
    """What there was `seconds` after the begin; parts of each table."""

    seconds: float
    events_parts: int
    events_rows: int
    set_aside_parts: int
    merges: int


class Sampler(Background):
    """Looks at parts and merges every `every_seconds`; a context manager."""

    def __init__(self, url: str, every_seconds: float) -> None:
        super().__init__("sampler", self._work)
        self.samples: list[Sample] = []
        self._connection = Connection(url, SecretStr(""))
        self._every_seconds = every_seconds
        self._begin = time.monotonic()

    def _work(self) -> None:
        while not self._end.wait(self._every_seconds):
            with self._connection.client() as client:
                (found,) = client.query(_SAMPLES).result_rows
            self.samples.append(Sample(time.monotonic() - self._begin, *found))

    def _close(self) -> None:
        self._connection.close()


def endure(directory: Path, events: int, minutes: float, every_seconds: float) -> dict[str, Any]:
    """Insert at full speed for `minutes`, and watch the parts; `events` are one round.

    Making further rounds is not the sink's work: its CPU time is subtracted.

    Raises:
        RuntimeError: not all accepted events are there once at the end, each with its value.
        ValueError: the month of the events is over first.
    """
    feed = Feed(events)
    url = f"chdb://{directory}"
    connection = Connection(url, SecretStr(""))
    with connection.client() as client:
        migrate(client)
    sink = ClickHouseSink(connection)
    sink.write(feed.first, 0)
    begin, cpu_begin = time.monotonic(), time.process_time()
    making_seconds = 0.0
    rounds = count()
    with Sampler(url, every_seconds) as sampler:
        while time.monotonic() - begin < minutes * 60:
            writes = feed.round(next(rounds))
            while True:
                making_since = time.thread_time()
                records = next(writes, None)
                making_seconds += time.thread_time() - making_since
                if records is None:
                    break
                sink.write(records, 0)
        seconds = time.monotonic() - begin
        cpu_seconds = time.process_time() - cpu_begin - making_seconds
    done = next(rounds)
    with connection.client() as client:
        merging_seconds = wait_until_merged(client)
        (kept,) = client.query(
            "SELECT sum(JSONExtractInt(data, 'value')), count() FROM events FINAL"
        ).result_rows
        ((delayed, limit),) = client.query(
            "SELECT (SELECT sum(value) FROM system.events WHERE event = 'DelayedInserts'),"
            " (SELECT value FROM system.merge_tree_settings WHERE name = 'parts_to_delay_insert')"
        ).result_rows
    connection.close()
    values, accepted = map(sum, zip(*feed.workload.expected().values(), strict=True))
    if kept != (values * done, accepted * done):
        raise RuntimeError(f"{kept[1]} events are there of {accepted * done}, with {kept[0]}")
    rows = feed.workload.events * done
    second, last = thirds([one.events_parts for one in sampler.samples])
    return {
        "minutes": seconds / 60,
        "rows": rows,
        "rows_per_second": rows / seconds,
        "rows_per_cpu_second": rows / cpu_seconds,
        "parts_max": max(one.events_parts for one in sampler.samples),
        "parts_second_third": second,
        "parts_last_third": last,
        "parts_to_delay_insert": int(limit),
        "delayed_inserts": int(delayed or 0),
        "merging_seconds_after": merging_seconds,
        "kept_up": last <= second * GROWTH_MAX and not delayed,
        "samples": [asdict(one) for one in sampler.samples],
    }


def thirds(parts: Sequence[int]) -> tuple[float, float]:
    """How many there were on average in the second and in the last third of the run."""
    third = max(1, len(parts) // 3)
    return fmean(parts[-2 * third : -third] or parts), fmean(parts[-third:])
