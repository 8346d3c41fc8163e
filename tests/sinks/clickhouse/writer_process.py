"""A process that writes a seeded log to ClickHouse, for a test that kills it.

Usage: writer_process URL SEED ROUND POSITIONS_FILE. Goes on from the positions in the file, and
replaces the file after each write, as a consumer commits its offsets.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from pydantic import SecretStr

from sinks.clickhouse.connect import Connection
from sinks.clickhouse.write import ClickHouseSink
from tests.sinks.clickhouse.seeded_log import SeededLog

BATCHES = 40


def main(url: str, seed: str, life: str, file: Path) -> None:
    """Write what is left of the log, then end with code 0."""
    committed = {
        (topic, partition): offset for topic, partition, offset in json.loads(file.read_text())
    }
    sink = ClickHouseSink(Connection(url, SecretStr("")))
    log = SeededLog(int(seed), BATCHES)
    print("writing", flush=True)
    for batch in log.batches(committed, random.Random(f"{seed}-{life}")):
        committed.update(sink.write(batch, 0).positions)
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps([[*place, offset] for place, offset in committed.items()]))
        partial.replace(file)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]))
