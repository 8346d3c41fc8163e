"""A local broker that comes back whenever it dies, whatever its owner is waiting for meanwhile."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from pipeline.errors import Stop
from streams.local_kafka import LocalKafka

_LOOK_SECONDS = 0.2


class Reviver:
    """Starts `broker` again with its records as often as it dies, at most a moment later.

        with LocalKafka() as broker, Reviver(broker):
            ...

    Raises:
        Stop: at the end, or by `check`: the broker did not come back.
    """

    def __init__(self, broker: LocalKafka) -> None:
        self._broker = broker
        self._failure: Stop | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._revive, name="meterline-reviver")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        self.check()

    def check(self) -> None:
        """Raises what kept the broker from coming back, if anything did."""
        if self._failure is not None:
            raise self._failure

    def _revive(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            try:
                self._broker.revive()
            except Stop as failure:
                self._failure = failure
                return
