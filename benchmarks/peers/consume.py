"""The roofline: consume and decode each event with msgspec, and nothing else.

Arguments: broker, topic, number of events.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec
from confluent_kafka import Consumer

#: As many as stay in the processor's cache.
_AT_ONCE = 2_000

_SETTINGS = {
    "enable.auto.commit": False,
    "auto.offset.reset": "earliest",
    "isolation.level": "read_committed",
    "queued.min.messages": 100_000,
    "queued.max.messages.kbytes": 256 * 1024,
    "fetch.queue.backoff.ms": 5,
    "fetch.wait.max.ms": 20,
}

Data = TypeVar("Data")


class _Data(msgspec.Struct, gc=False):
    value: int
    model: str
    region: str


class Event(msgspec.Struct, Generic[Data], gc=False):
    """A CloudEvent with such data."""

    specversion: str
    id: str
    source: str
    type: str
    subject: str
    time: str
    data: Data


def consume(
    address: str,
    topic: str,
    events: int,
    data: type = _Data,
    seen: Callable[[], None] = lambda: None,
) -> None:
    """Read `events` events from the beginning; `seen` is called when some are here."""
    decode = msgspec.json.Decoder(Event[data]).decode  # type: ignore[valid-type]
    consumer = Consumer(
        _SETTINGS | {"bootstrap.servers": address, "group.id": f"benchmark.{time.time_ns()}"}
    )
    consumer.subscribe([topic])
    gc.freeze()
    left = events
    while left:
        messages = consumer.consume(_AT_ONCE, 0.1)
        if messages:
            seen()
        for message in messages:
            decode(message.value())  # type: ignore[arg-type]
        left -= len(messages)


if __name__ == "__main__":
    consume(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    print("done", flush=True)
    # Ended from outside, once it has been measured.
    time.sleep(600)
