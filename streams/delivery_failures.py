"""Events that Kafka did not take: noted by whoever hears of it, raised to whoever calls next."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from confluent_kafka import KafkaError

from pipeline.errors import MeterlineError

_NAMED_MAX = 100

_SEND_AGAIN = "Send them again with the same ids; what did arrive is recognised."


class DeliveryFailed(MeterlineError):
    """Some events were not acknowledged by Kafka. `keys` names at most 100 of their customers."""

    def __init__(self, count: int, keys: list[str], why: str, remedy: str = _SEND_AGAIN) -> None:
        super().__init__(f"{count} usage events were not delivered: {why}.", remedy=remedy)
        self.count = count
        self.keys = keys
        self.why = why


class DeliveryFailures:
    """Those that nobody was told of yet. Usable from many threads, also within a signal handler."""

    def __init__(self) -> None:
        self.count = 0
        self._keys: list[str] = []
        self._why = ""
        self._remedy = _SEND_AGAIN
        self._lock = threading.RLock()

    def note(self, keys: Sequence[bytes | None], why: str, remedy: str = _SEND_AGAIN) -> None:
        """Events with these keys have failed, one for each."""
        names = [key.decode(errors="replace") for key in keys if key is not None]
        with self._lock:
            self.count += len(keys)
            self._why, self._remedy = why, remedy
            self._keys += names[: _NAMED_MAX - len(self._keys)]

    def note_error(self, keys: Sequence[bytes | None], error: KafkaError) -> None:
        """Kafka did not take the events with these keys."""
        if error.code() == KafkaError.INVALID_TIMESTAMP:
            # Kafka refuses a whole batch for one of its records.
            self.note(
                keys,
                "an arrival time among them is older, or further ahead, than their topic takes "
                f"({error.str()})",
                "Correct their arrival times (receivedat, timestamp_ms, --arrival original), or "
                "leave them out, so that they arrive now; if they have none, set this machine's "
                f"clock. {_SEND_AGAIN}",
            )
        else:
            self.note(keys, error.str())

    def raise_noted(self) -> None:
        """Tell of them, once.

        Raises:
            DeliveryFailed: there are some.
        """
        with self._lock:
            if not self.count:
                return
            failed = DeliveryFailed(self.count, self._keys, self._why, self._remedy)
            self.count, self._keys = 0, []
        raise failed
