"""kill -9 of a sink that writes: the next one goes on, and the rows are exact."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from pydantic import SecretStr

from sinks.clickhouse.connect import Connection
from sinks.clickhouse.migrate import migrate
from tests.sinks.clickhouse.seeded_log import SeededLog, rows_in
from tests.sinks.clickhouse.writer_process import BATCHES

SEED = 7
KILLS = 5


def test_rows_are_exact_after_every_kill(tmp_path: Path) -> None:
    url = f"chdb://{tmp_path}/clickhouse"
    connection = Connection(url, SecretStr(""))
    with connection.client() as client:
        migrate(client)
    connection.close()
    positions = tmp_path / "positions.json"
    positions.write_text("[]")
    rng = random.Random(SEED)
    for life in range(KILLS):
        assert (
            _write(url, life, positions, kill_after_seconds=rng.uniform(0, 0.4)) == -signal.SIGKILL
        )
    assert _write(url, KILLS, positions, kill_after_seconds=None) == 0
    with connection.client() as client:
        found = rows_in(client)
    connection.close()
    assert found == SeededLog(SEED, BATCHES).expected


def _write(url: str, life: int, positions: Path, kill_after_seconds: float | None) -> int:
    """Run one writer and kill it `kill_after_seconds` after its first write began."""
    arguments = [url, str(SEED), str(life), str(positions)]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.sinks.clickhouse.writer_process", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        if kill_after_seconds is not None:
            time.sleep(kill_after_seconds)
            writer.kill()
        return writer.wait()
