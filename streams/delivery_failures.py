"""Events that Kafka did not take: noted by whoever hears of it, raised to whoever calls next."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from pipeline.errors import MeterlineError

_NAMED_MAX = 100


class DeliveryFailed(MeterlineError):
    """Some events were not acknowledged by Kafka. `keys` names at most 100 of their customers."""

    def __init__(self, count: int, keys: list[str], why: str) -> None:
        super().__init__(
            f"{count} usage events were not delivered: {why}.",
            remedy="Send them again with the same ids; what did arrive is recognised.",
        )
        self.count = count
        self.keys = keys
        self.why = why


class DeliveryFailures:
    """Those that nobody was told of yet. Usable from many threads, also within a signal handler."""

    def __init__(self) -> None:
        self.count = 0
        self._keys: list[str] = []
        self._why = ""
        self._lock = threading.RLock()

    def note(self, keys: Sequence[bytes | None], why: str) -> None:
        """Events with these keys have failed, one for each."""
        names = [key.decode(errors="replace") for key in keys if key is not None]
        with self._lock:
            self.count += len(keys)
            self._why = why
            self._keys += names[: _NAMED_MAX - len(self._keys)]

    def raise_noted(self) -> None:
        """Tell of them, once.

        Raises:
            DeliveryFailed: there are some.
        """
        with self._lock:
            if not self.count:
                return
            failed = DeliveryFailed(self.count, self._keys, self._why)
            self.count, self._keys = 0, []
        raise failed
