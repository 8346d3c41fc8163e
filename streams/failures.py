"""Which of Kafka's errors a new session may cure, and which need a person."""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException

from pipeline.errors import Stop

_REMEDIES = {
    KafkaError._AUTO_OFFSET_RESET: (
        "Its position was deleted by retention, so records were lost.",
        "Restore the topic from a backup, or decide by hand where the group goes on, and lengthen "
        "the retention.",
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
        "Check METERLINE_SASL_USERNAME, METERLINE_SASL_PASSWORD and the mechanism.",
    ),
    KafkaError.MSG_SIZE_TOO_LARGE: (
        "A record is larger than its topic accepts.",
        "Set max.message.bytes of the topics as `meterline topics` does.",
    ),
}


def stop_if_hopeless(exception: KafkaException, who: str) -> None:
    """Return if a new session may help.

    Raises:
        Stop: if it cannot, with what a person can do.
    """
    error = exception.args[0]
    if not isinstance(error, KafkaError):
        return
    code = error.code()
    if code == KafkaError._FATAL and "group.instance.id" in error.str():
        code = KafkaError.FENCED_INSTANCE_ID
    if code in _REMEDIES:
        what, remedy = _REMEDIES[code]
        raise Stop(f"{who}: {what} ({error.str()})", remedy=remedy) from exception
