"""Which process of a stage this is: a name that it has again after a restart."""

from __future__ import annotations

import fcntl
import itertools
import os
import re
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def claim_instance(stage: str, configured: str = "") -> Iterator[str]:
    """The configured name, or host name and the lowest number that no other process here has.

    Kafka fences by this name, so two processes must never share it, and a restarted one should
    have the same again: it then ends its own unfinished transaction at once. The number is held by
    a lock on a file, which the kernel releases however the process ends.
    """
    if configured:
        yield configured
        return
    host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())
    directory = Path(tempfile.gettempdir()) / f"meterline-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    for number in itertools.count():
        with (directory / f"{stage}.{number}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield f"{host}-{number}"
            return
