"""The client that services publish usage events with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Final, Literal, Self

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException, Message

from pipeline.errors import MeterlineError, Stop
from pipeline.reject import Position
from schemas import topics
from schemas.usage_event import STRUCTURED, UsageEvent

_CONTENT_TYPE: list[tuple[str, str | bytes | None]] = [("content-type", STRUCTURED.encode())]
_POLL_SECONDS = 0.1

#: The client library looks for messages that timed out once a second.
_TIMEOUT_CHECK_SECONDS = 2.0


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


#: For events that keep an old arrival time. A broker that was killed forgets producers whose newest
#: record is older than a day (producer.id.expiration.ms), and can then take a later batch before an
#: earlier one, which it loses; with one batch in flight it can only take one twice.
KEEPS_ARRIVALS: Final = {"max.in.flight.requests.per.connection": "1"}


class Producer:
    """Publishes usage events, idempotently, keyed by customer, so their order per customer holds.

    Usable from many threads and as a context manager. Delivery errors are raised by the next
    `send`, by `flush` or at the end of the `with` block: an event is safe once `flush` returned.

    `kafka` adds to or replaces settings of librdkafka, e.g. credentials.
    """

    def __init__(
        self,
        bootstrap_servers: str = "localhost:9092",
        *,
        topic: str = topics.EVENTS.name,
        compression: Literal["lz4", "zstd"] = "lz4",
        linger_ms: int = 5,
        timeout_seconds: float = 120,
        kafka: Mapping[str, str] | None = None,
    ) -> None:
        self._topic = topic
        self._timeout_seconds = timeout_seconds
        try:
            self._producer = confluent_kafka.Producer(
                {
                    "bootstrap.servers": bootstrap_servers,
                    "enable.idempotence": True,
                    "acks": "all",
                    "compression.type": compression,
                    "linger.ms": linger_ms,
                    "message.max.bytes": 16 * 1024 * 1024,
                    # The same customer goes to the same partition as from clients in Java.
                    "partitioner": "murmur2_random",
                    "delivery.timeout.ms": int(timeout_seconds * 1000),
                }
                | dict(kafka or {})
            )
        except KafkaException as error:
            raise Stop(
                f"The producer's settings are faulty: {error}.",
                remedy="Correct bootstrap_servers and the kafka settings.",
            ) from error
        self._lock = threading.Lock()
        self._failed = 0
        self._failed_keys: list[str] = []
        self._why = ""
        self._closed = threading.Event()
        # Serves acknowledgements also while the service sends nothing.
        self._poller = threading.Thread(target=self._poll, name="meterline-producer", daemon=True)
        self._poller.start()

    def send(self, event: UsageEvent) -> None:
        """Queue one event; blocks while the queue is full.

        Raises:
            DeliveryFailed: when events sent before failed for good.
        """
        self.send_raw(event.to_json(), key=event.subject.encode())

    def send_raw(
        self,
        value: bytes | None,
        *,
        key: bytes | None = None,
        timestamp_ms: int | None = None,
        headers: list[tuple[str, str | bytes | None]] = _CONTENT_TYPE,
        arrived: Callable[[Position], None] | None = None,
    ) -> None:
        """Queue bytes as they are: one CloudEvent in structured mode, unless `headers` differ.

        `key` is the customer; `timestamp_ms` (since 1970) replays an arrival time. Once it is safe,
        `arrived` is told where it lies.

        Raises:
            DeliveryFailed: when events sent before failed for good.
            Stop: when the producer was closed, or Kafka's client refuses the event.
        """
        self._raise_failures()
        told = self._delivered if arrived is None else partial(self._delivered, arrived=arrived)
        while not self._closed.is_set():
            try:
                self._producer.produce(
                    self._topic,
                    value=value,
                    key=key,
                    headers=headers,
                    timestamp=timestamp_ms or 0,
                    on_delivery=told,
                )
                return
            except BufferError:
                self._closed.wait(0.01)
            except KafkaException as error:
                raise Stop(
                    f"The event cannot be sent: {error.args[0].str()}.",
                    remedy="Keep an event below 1 MiB; check the topic's name and rights.",
                ) from error
        raise Stop("The producer is closed.", remedy="Send before leaving the with block.")

    def flush(self) -> None:
        """Wait until everything sent so far is safe in Kafka.

        Raises:
            DeliveryFailed: when some of it is not.
        """
        left = self._producer.flush(self._timeout_seconds + _TIMEOUT_CHECK_SECONDS)
        self._raise_failures()
        if left:
            raise DeliveryFailed(left, [], f"no answer in {self._timeout_seconds} s")

    def close(self) -> None:
        """Flush and stop. Raises like `flush`."""
        try:
            self.flush()
        finally:
            self._closed.set()
            self._poller.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _poll(self) -> None:
        while not self._closed.is_set():
            self._producer.poll(_POLL_SECONDS)

    def _delivered(
        self,
        error: KafkaError | None,
        message: Message,
        arrived: Callable[[Position], None] | None = None,
    ) -> None:
        if error is None:
            if arrived is not None:
                arrived(Position(message.partition() or 0, message.offset() or 0))
            return
        with self._lock:
            self._failed += 1
            self._why = error.str()
            key = message.key()
            if key is not None and len(self._failed_keys) < 100:
                text = key if isinstance(key, str) else key.decode(errors="replace")
                self._failed_keys.append(text)

    def _raise_failures(self) -> None:
        if not self._failed:
            return
        with self._lock:
            failed = DeliveryFailed(self._failed, self._failed_keys, self._why)
            self._failed, self._failed_keys = 0, []
        raise failed
