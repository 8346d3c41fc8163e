"""The roofline: consume and decode each event with msgspec, and nothing else.

Arguments: broker, topic, number of events.
"""

from __future__ import annotations

import gc
import sys
import time

import msgspec
from confluent_kafka import Consumer

#: As many as stay in the processor's cache.
_AT_ONCE = 2_000

SETTINGS = {
    "enable.auto.commit": False,
    "auto.offset.reset": "earliest",
    "isolation.level": "read_committed",
    "queued.min.messages": 100_000,
    "queued.max.messages.kbytes": 256 * 1024,
    "fetch.queue.backoff.ms": 5,
    "fetch.wait.max.ms": 20,
}


class _Data(msgspec.Struct, gc=False):
    value: int
    model: str
    region: str


class _Event(msgspec.Struct, gc=False):
    specversion: str
    id: str
    source: str
    type: str
    subject: str
    time: str
    data: _Data


def consume(address: str, topic: str, events: int) -> None:
    """Read `events` events from the beginning."""
    decode = msgspec.json.Decoder(_Event).decode
    consumer = Consumer(
        SETTINGS | {"bootstrap.servers": address, "group.id": f"benchmark.{time.time_ns()}"}
    )
    consumer.subscribe([topic])
    gc.freeze()
    left = events
    while left:
        messages = consumer.consume(_AT_ONCE, 0.1)
        for message in messages:
            decode(message.value())  # type: ignore[arg-type]
        left -= len(messages)


if __name__ == "__main__":
    consume(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    print("done", flush=True)
    # Ended from outside, once it has been measured.
    time.sleep(600)
