"""usage.discrepancies: what has been told of, and telling more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from confluent_kafka import Producer

from pipeline.open_message import open_message
from pipeline.record import Outgoing
from schemas import topics
from schemas.discrepancy import Discrepancy
from streams.read import partition_count, read_to_end
from streams.write import WRITER, write


def open_discrepancies(kafka: Mapping[str, str]) -> dict[str, Discrepancy]:
    """The newest word on each difference, of those that are open, by key.

    Raises:
        KafkaException: the broker does not answer.
        Stop: a record is no discrepancy.
    """
    topic = topics.DISCREPANCIES.name
    newest: dict[str, Discrepancy] = {}
    for partition in range(partition_count(kafka, topic)):
        for record in read_to_end(kafka, topic, partition):
            if record.value is not None:
                discrepancy = open_message(record, Discrepancy)
                newest[discrepancy.key] = discrepancy
    return {key: each for key, each in newest.items() if each.state == "open"}


def publish(kafka: Mapping[str, str], discrepancies: Sequence[Discrepancy]) -> None:
    """Tell of changes, and wait until the broker has them.

    Raises:
        KafkaException: not all of it was acknowledged.
    """
    if not discrepancies:
        return
    producer = Producer({"log_level": 2, **kafka, **WRITER, "enable.idempotence": True})
    write(
        producer,
        [
            Outgoing(
                topics.DISCREPANCIES.name, each.model_dump_json().encode(), key=each.key.encode()
            )
            for each in discrepancies
        ],
    )
