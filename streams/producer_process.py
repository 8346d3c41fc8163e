"""The process of a producer: what a fork of it has not, and what its end has to wait for."""

from __future__ import annotations

import atexit
import os
import sys
import weakref
from typing import Protocol

from pipeline.errors import Stop
from streams.delivery_failures import DeliveryFailed


class Delivers(Protocol):
    """A producer whose threads deliver what it was given."""

    is_forked: bool
    """This is a child of the process that has those threads."""

    @property
    def is_closed(self) -> bool:
        """It takes nothing more."""

    def close(self) -> None:
        """Wait for what it was given."""


def register(producer: Delivers) -> None:
    """Tell it after a fork, and close it when the program ends."""
    _made.add(producer)


def forked() -> Stop:
    """What whoever uses a producer in a child of its process is told."""
    return Stop(
        "The producer was made before this process was forked, and cannot deliver here.",
        remedy="Make one in each worker: in post_fork of gunicorn, worker_process_init of Celery, "
        "the initializer of a multiprocessing pool.",
    )


#: All producers of this process, as long as somebody has them.
_made: weakref.WeakSet[Delivers] = weakref.WeakSet()


def _mark_forked() -> None:
    """The child has none of the threads that would deliver, and perhaps locks that they held."""
    for producer in _made:
        producer.is_forked = True


@atexit.register
def _close_at_exit() -> None:
    """The threads that deliver still run here: they are no longer there once modules go."""
    for producer in list(_made):
        if producer.is_forked or producer.is_closed:
            continue
        try:
            producer.close()
        except DeliveryFailed as failure:
            print(failure, file=sys.stderr)


os.register_at_fork(after_in_child=_mark_forked)
