"""Which of Kafka's errors a new session may cure, and which need a person."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import KafkaError, KafkaException

from pipeline import overrun
from pipeline.errors import Stop
from streams.clients import Clock

#: So often may our name be taken from us within so many seconds before a person is asked: more
#: often than brokers are restarted one after the other, each of which may do it once. Two of one
#: name take turns every few seconds, and are told of within half a minute.
_FENCED_MAX = 8
_FENCED_SECONDS = 600.0

_REMEDIES = {
    KafkaError._AUTO_OFFSET_RESET: (
        "Its position was deleted by retention, so records were lost.",
        overrun.REMEDY,
    ),
    KafkaError.FENCED_INSTANCE_ID: (
        "Another process runs as the same instance.",
        "Give each process of a stage its own METERLINE_INSTANCE.",
    ),
    KafkaError.TOPIC_AUTHORIZATION_FAILED: (
        "The user may not use a topic.",
        "Grant the rights of docs/operating.md.",
    ),
    KafkaError.GROUP_AUTHORIZATION_FAILED: (
        "The user may not use the consumer group.",
        "Grant the rights of docs/operating.md.",
    ),
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: (
        "The user may not use the transactional id.",
        "Grant the rights of docs/operating.md.",
    ),
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: (
        "The user may write to no topic.",
        "Grant the rights of docs/operating.md.",
    ),
    KafkaError.UNKNOWN_TOPIC_OR_PART: (
        "A topic of the catalogue does not exist.",
        "Create the topics with `meterline topics`.",
    ),
    KafkaError._UNKNOWN_TOPIC: (
        "A topic of the catalogue does not exist.",
        "Create the topics with `meterline topics`.",
    ),
    KafkaError._UNKNOWN_PARTITION: (
        "A topic has fewer partitions than the catalogue says.",
        "Create the topics with `meterline topics`; the number of shards never changes.",
    ),
    KafkaError._AUTHENTICATION: (
        "Kafka refused the credentials.",
        "Check METERLINE_SASL_USERNAME, METERLINE_SASL_PASSWORD, "
        "METERLINE_SASL_MECHANISM and METERLINE_SECURITY_PROTOCOL.",
    ),
    KafkaError._SSL: (
        "No encrypted connection to Kafka came about.",
        "Check METERLINE_SECURITY_PROTOCOL and METERLINE_SSL_CA_LOCATION.",
    ),
    KafkaError._INVALID_ARG: (
        "Kafka's client refuses its settings.",
        "Check METERLINE_SECURITY_PROTOCOL, what belongs to it and METERLINE_BOOTSTRAP_SERVERS.",
    ),
    KafkaError.MSG_SIZE_TOO_LARGE: (
        "A record is larger than its topic accepts.",
        "Set max.message.bytes of the topics as `meterline topics` does.",
    ),
}


def stop_if_hopeless(exception: KafkaException, who: str) -> None:
    """Return if trying again may help. `who` begins the message.

    Raises:
        Stop: if it cannot, with what a person can do.
    """
    error = exception.args[0]
    code = _code(exception)
    if code in _REMEDIES:
        what, remedy = _REMEDIES[code]
        raise Stop(f"{who}: {what} ({error.str()})", remedy=remedy) from exception


@contextmanager
def untangled() -> Iterator[None]:
    """A call of the client library in which it calls back raises what the library means to raise.

    A fatal error is raised at once, and what else is due is still called back; Python then takes
    the one that was called for the culprit, and the error for its cause.
    https://github.com/confluentinc/confluent-kafka-python/issues/865

    Raises:
        KafkaException: the error.
    """
    try:
        yield
    except SystemError as culprit:
        if isinstance(culprit.__cause__, KafkaException):
            raise culprit.__cause__ from None
        raise


class Patience:
    """With a loop whose name was taken by another one: it may be an error, so only for a while.

    A client that heard nothing for longer than its session is told that another process has its
    name, although there is none (https://github.com/confluentinc/librdkafka/issues/3437). Two that
    do have one name take it from each other again and again.
    """

    def __init__(self, who: str, clock: Clock) -> None:
        """`who` begins every message: which stage or sink."""
        self._who = who
        self._clock = clock
        self._fenced_at: list[float] = []

    def stop_if_hopeless(self, exception: KafkaException) -> None:
        """Return if a new session may help.

        Raises:
            Stop: if it cannot, with what a person can do.
        """
        if _code(exception) != KafkaError.FENCED_INSTANCE_ID or self._is_exhausted():
            stop_if_hopeless(exception, self._who)

    def _is_exhausted(self) -> bool:
        now = self._clock.monotonic()
        self._fenced_at = [at for at in self._fenced_at if now - at < _FENCED_SECONDS] + [now]
        return len(self._fenced_at) >= _FENCED_MAX


def _code(exception: KafkaException) -> int | None:
    error = exception.args[0]
    if not isinstance(error, KafkaError):
        return None
    code: int = error.code()
    if code == KafkaError._FATAL and "group.instance.id" in error.str():
        return KafkaError.FENCED_INSTANCE_ID
    return code
