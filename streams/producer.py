"""The client that services publish usage events with."""

from __future__ import annotations

import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException, Message

from pipeline.errors import Retry, Stop
from pipeline.reject import Position
from schemas import topics
from schemas.usage_event import (
    PACKED,
    PACKED_BYTES_MAX,
    PACKED_EVENTS_MAX,
    STRUCTURED,
    UsageEvent,
)
from streams.delivery_failures import DeliveryFailed, DeliveryFailures
from streams.packer import ANY_PARTITION, Arrived, Pack, Packer
from streams.producer_process import forked, register
from streams.write import NO_PLACE, has_place

_Headers: TypeAlias = Sequence[tuple[str, str | bytes | None]]
#: Is told that a record is safe, or why it is not.
_Told: TypeAlias = Callable[[KafkaError | None, Message], None]

_CONTENT_TYPE: _Headers = [("content-type", STRUCTURED.encode())]
_PACKED: _Headers = [("content-type", PACKED.encode())]
_POLL_SECONDS = 0.1

#: How often `flush` looks whether what it waits for is safe, while others send.
_LOOK_SECONDS = 0.01

#: The client library counts whole milliseconds in 32 bits, and takes 0 for as long as ever.
_TIMEOUT_MS_MIN, _TIMEOUT_MS_MAX = 1, 2**31 - 1

#: The client library looks for messages that timed out once a second.
_TIMEOUT_CHECK_SECONDS = 2.0


#: For events that keep an old arrival time. A broker that was killed forgets producers whose newest
#: record is older than a day (producer.id.expiration.ms), and can then take a later batch before an
#: earlier one, which it loses; with one batch in flight it can only take one twice.
KEEPS_ARRIVALS: Final = {"max.in.flight.requests.per.connection": "1"}


@dataclass(slots=True)
class _Epoch:
    """The events between two flushes: of how many nobody knows yet what became of them.

    Counted without a lock, which would be a tenth of what a `send` costs: with the lock of CPython,
    which the client library needs, no thread comes between where no call and no loop is.
    """

    unsettled: int = 0


class Producer:
    """Publishes usage events, idempotently, keyed by customer, so their order per customer holds.

    Usable from many threads and as a context manager. Delivery errors are raised by the next
    `send`, by `flush` or at the end of the `with` block: an event is safe once `flush` returned.
    A program that ends without that still waits for its events, and says on stderr what is lost.

    With `pack_events` above 1, up to so many events, or `pack_bytes`, travel in one Kafka record,
    and each waits at most `linger_ms` for others: that costs this process, the broker and every
    reader less. There is one open pack for each partition, and a customer's partition is the same
    as without packing, so the order per customer holds all the same. Events share the fate of
    their record: they are safe, or have failed, together.

    It belongs to the process that made it: a fork has none of its threads, and refuses to send.

    An event that is not acknowledged within `timeout_seconds` has failed.

    `kafka` adds to or replaces settings of librdkafka, e.g. credentials.

    Raises:
        Stop: settings are faulty.
    """

    def __init__(
        self,
        bootstrap_servers: str = "localhost:9092",
        *,
        topic: str = topics.EVENTS.name,
        compression: Literal["lz4", "zstd"] = "lz4",
        linger_ms: int = 5,
        pack_events: int = 1,
        pack_bytes: int = 512 * 1024,
        timeout_seconds: float = 120,
        kafka: Mapping[str, str] | None = None,
    ) -> None:
        if (
            not 1 <= pack_events <= PACKED_EVENTS_MAX
            or not 1 <= pack_bytes <= PACKED_BYTES_MAX // 2
        ):
            raise Stop(
                f"pack_events is {pack_events} and pack_bytes {pack_bytes}.",
                remedy=f"Pack up to {PACKED_EVENTS_MAX} events and {PACKED_BYTES_MAX // 2} bytes; "
                "above 1 MiB see to it that the broker takes such records.",
            )
        if not _TIMEOUT_MS_MIN <= timeout_seconds * 1000 <= _TIMEOUT_MS_MAX:
            raise Stop(
                f"timeout_seconds is {timeout_seconds}.",
                remedy="Say for how many seconds an event may be on its way: 120, or 0.5.",
            )
        #: This process is a child of the one that has its threads.
        self.is_forked = False
        self._topic = topic
        self._timeout_seconds = timeout_seconds
        try:
            self._producer = confluent_kafka.Producer(
                {
                    "bootstrap.servers": bootstrap_servers,
                    "enable.idempotence": True,
                    "acks": "all",
                    "compression.type": compression,
                    # A pack has waited before.
                    "linger.ms": linger_ms if pack_events == 1 else 0,
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
        # Whoever handles a signal may send or flush as well.
        self._lock = threading.RLock()
        self._epochs: list[_Epoch] = []
        self._begin_epoch()
        self._failures = DeliveryFailures()
        #: Nothing more is taken; what was taken goes on until the end.
        self._closed, self._ended = threading.Event(), threading.Event()
        # Serves acknowledgements also while the service sends nothing.
        self._poller = threading.Thread(target=self._poll, name="meterline-producer", daemon=True)
        self._poller.start()
        self._packer: Packer | None = None
        if pack_events > 1:
            self._packer = Packer(
                self._send_pack,
                self._partition_count,
                events_max=pack_events,
                bytes_max=pack_bytes,
                linger_ms=linger_ms,
            )
        register(self)

    def send(self, event: UsageEvent) -> None:
        """Queue one event; blocks while the queue is full. Raises like `send_raw`."""
        self.send_raw(event.to_json(), key=event.subject.encode())

    def send_raw(
        self,
        value: bytes | None,
        *,
        key: bytes | None = None,
        timestamp_ms: int | None = None,
        headers: _Headers = _CONTENT_TYPE,
        arrived: Arrived | None = None,
    ) -> None:
        """Queue bytes as they are: one CloudEvent in structured mode, unless `headers` differ.

        `key` is the customer; `timestamp_ms` (since 1970) replays an arrival time. Once it is safe,
        `arrived` is told where it lies; what that raises goes to `threading.excepthook`. A producer
        that packs sends alone, in its turn, what has headers or an arrival time of its own, is no
        JSON, is nested too deeply or has blanks around it.

        Raises:
            DeliveryFailed: when events sent before failed for good; this one is queued then, too.
            Retry: when the first event is to be packed, and no broker answers; it is not queued.
            Stop: when the producer was closed, or made before a fork, or Kafka's client refuses the
                event; it is not queued.
        """
        if self.is_forked:
            raise forked()
        packer = self._packer
        if packer is not None and not self._closed.is_set():
            is_plain = headers is _CONTENT_TYPE and timestamp_ms is None
            if not is_plain or not value or len(value) > packer.bytes_max:
                packer.make_way(key)
            elif packer.add(value, key, arrived):
                if self._failures.count:
                    self._failures.raise_noted()
                return
        told = None
        if arrived is not None or headers is not _CONTENT_TYPE:
            told = partial(self._delivered, headers=headers, arrived=arrived)
        self._produce(value, key, headers, told, self._closed, timestamp_ms or 0)
        if self._failures.count:
            self._failures.raise_noted()

    def _produce(
        self,
        value: bytes | None,
        key: bytes | None,
        headers: _Headers,
        told: Callable[..., None] | None,
        ended: threading.Event,
        timestamp_ms: int = 0,
        partition: int = ANY_PARTITION,
        count: int = 1,
    ) -> None:
        """Queue a record of `count` events. `told` is given their epoch before all else."""
        while not ended.is_set():
            # Nothing is called between these, so that no other thread can begin an epoch there.
            epoch, plain = self._sending
            epoch.unsettled += count
            try:
                self._producer.produce(
                    self._topic,
                    value=value,
                    key=key,
                    partition=partition,
                    headers=list(headers),
                    timestamp=timestamp_ms,
                    on_delivery=plain if told is None else partial(told, epoch),
                )
                break
            except BufferError:
                epoch.unsettled -= count
                ended.wait(0.01)
            except Exception as error:
                epoch.unsettled -= count
                if not isinstance(error, KafkaException):
                    raise
                raise Stop(
                    f"The event cannot be sent: {error.args[0].str()}.",
                    remedy="Keep an event below 1 MiB; check the topic's name and rights.",
                ) from error
        # Asked again: what comes while it ends, its last flush may not have waited for.
        if ended.is_set():
            raise Stop("The producer is closed.", remedy="Send before leaving the with block.")

    def flush(self) -> None:
        """Wait until everything sent so far is safe in Kafka, not for what others send meanwhile.

        Raises:
            DeliveryFailed: when some of it is not.
            Stop: when the producer was made before a fork.
        """
        if self.is_forked:
            raise forked()
        packer = self._packer
        if packer is not None:
            packer.send_all()
        before = self._begin_epoch()
        ends = time.monotonic() + self._timeout_seconds + _TIMEOUT_CHECK_SECONDS
        while left := sum(epoch.unsettled for epoch in before):
            if not self._producer.flush(_LOOK_SECONDS):
                left = 0  # another thread is still at its `send`
                break
            if time.monotonic() > ends:
                break
        self._failures.raise_noted()
        if left:
            raise DeliveryFailed(left, [], f"no answer in {self._timeout_seconds} s")

    def close(self) -> None:
        """Take nothing more, flush and stop. Raises like `flush`."""
        if self.is_forked:
            raise forked()
        self._closed.set()
        try:
            if self._packer is not None:
                self._packer.close()
            self.flush()
        finally:
            self._ended.set()
            self._poller.join()
            # It knows us, and of a cycle the client and its threads would live on.
            self._packer = None

    @property
    def is_closed(self) -> bool:
        """It takes nothing more; what it took may still be on its way."""
        return self._closed.is_set()

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
        while not self._ended.is_set():
            self._producer.poll(_POLL_SECONDS)

    def _begin_epoch(self) -> list[_Epoch]:
        """Count anew what is sent from now on; the epochs before of which some is unsettled."""
        epoch = _Epoch()
        with self._lock:
            #: Where events are counted now, and who is told of those that bring nobody. By a proxy:
            #: of a cycle the client and its threads would live on.
            self._sending = epoch, partial(Producer._delivered, weakref.proxy(self), epoch)
            before = [epoch for epoch in self._epochs if epoch.unsettled]
            self._epochs = [*before, epoch]
        return before

    def _delivered(
        self,
        epoch: _Epoch,
        error: KafkaError | None,
        message: Message,
        headers: _Headers = _CONTENT_TYPE,
        arrived: Arrived | None = None,
    ) -> None:
        if error is None:
            if not has_place(message):
                told = partial(self._delivered, epoch, headers=headers, arrived=arrived)
                self._send_again(message, headers, told)
                return
            if arrived is not None:
                _tell(arrived, message)
        else:
            key = message.key()
            self._failures.note_error([key.encode() if isinstance(key, str) else key], error)
        epoch.unsettled -= 1

    def _send_pack(self, partition: int, pack: Pack) -> None:
        """Send a pack; if it must not travel as one, its events one by one."""
        try:
            value = pack.joined() if len(pack.values) > 1 else None
            if value is not None:
                told = partial(self._pack_delivered, pack)
                count = len(pack.values)
                self._produce(
                    value, None, _PACKED, told, self._ended, partition=partition, count=count
                )
                return
            for place, (event, key) in enumerate(zip(pack.values, pack.keys, strict=True)):
                alone = partial(self._delivered, arrived=pack.arrived.get(place))
                self._produce(event, key, _CONTENT_TYPE, alone, self._ended, partition=partition)
        except Stop as error:
            # Its events were sent by others than whoever is here now.
            self._failures.note(pack.keys, str(error))

    def _pack_delivered(
        self, pack: Pack, epoch: _Epoch, error: KafkaError | None, message: Message
    ) -> None:
        if error is not None:
            self._failures.note_error(pack.keys, error)
        elif not has_place(message):
            self._send_again(message, _PACKED, partial(self._pack_delivered, pack, epoch))
            return
        else:
            for place, arrived in pack.arrived.items():
                _tell(arrived, message, place)
        epoch.unsettled -= len(pack.values)

    def _send_again(self, message: Message, headers: _Headers, told: _Told) -> None:
        """Send what may not have arrived once more: what comes twice counts once.

        The message of an acknowledgement has no headers.
        """

        def told_again(error: KafkaError | None, message: Message) -> None:
            told(error if error is not None or has_place(message) else NO_PLACE, message)

        try:
            self._producer.produce(
                self._topic,
                value=message.value(),
                key=message.key(),
                partition=message.partition() or 0,
                headers=list(headers),
                timestamp=message.timestamp()[1],
                on_delivery=told_again,
            )
        except (BufferError, KafkaException):
            told(NO_PLACE, message)

    def _partition_count(self) -> int:
        try:
            found = self._producer.list_topics(self._topic, self._timeout_seconds)
        except KafkaException as error:
            raise Retry(
                f"Kafka does not say how many partitions {self._topic} has: {error.args[0].str()}.",
                remedy="Check that the broker runs, and send the event again.",
            ) from error
        topic = found.topics[self._topic]
        if topic.error is not None:
            raise Stop(
                f"{self._topic} cannot be sent to: {topic.error.str()}.",
                remedy="Create the topics with `meterline topics`, and check the rights.",
            )
        return len(topic.partitions)


def _tell(arrived: Arrived, message: Message, place: int = 0) -> None:
    try:
        arrived(Position(message.partition() or 0, message.offset() or 0, place))
    except Exception:
        # Not the sender's thread, and what else is acknowledged is to be heard of.
        current = threading.current_thread()
        threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), current)))
