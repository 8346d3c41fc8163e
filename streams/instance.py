"""Which process of a stage this is: a name that it has again after a restart."""

from __future__ import annotations

import fcntl
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pipeline.errors import Stop


def directory_of_names() -> Path:
    """Where the processes of this user agree on their names: in `$TMPDIR`, or in `/tmp`.

    Nowhere else, not even when that is full: a process that looked elsewhere would take a name that
    is taken.
    """
    return Path(os.environ.get("TMPDIR") or "/tmp") / f"meterline-{os.getuid()}"


@contextmanager
def claim_instance(stage: str, configured: str = "") -> Iterator[str]:
    """The configured name, or host name and the lowest number that no other process here has.

    Kafka fences by this name, so two processes must never share it, and a restarted one should
    have the same again: it then ends its own unfinished transaction at once. The number is held by
    a lock on a file, which the kernel releases however the process ends.

    Raises:
        Stop: there is no such file to be had.
    """
    if configured:
        yield configured
        return
    host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())
    directory = directory_of_names()
    try:
        number, lock = _lock_lowest(directory, stage)
    except OSError as error:
        raise Stop(
            f"No name can be claimed in {directory}: {error.strerror}.",
            remedy="Set METERLINE_INSTANCE to a name that no other process of this stage has, and "
            "that stays the same over restarts; or make room there, where this user may write.",
        ) from error
    with lock:
        yield f"{host}-{number}"


def _lock_lowest(directory: Path, stage: str) -> tuple[int, IO[str]]:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    number = 0
    while True:
        lock = (directory / f"{stage}.{number}.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            number += 1
        else:
            return number, lock
