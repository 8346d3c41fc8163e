"""Creates what is missing of the catalogue of topics; never changes or deletes a topic."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]
from confluent_kafka.cimpl import NewTopic

from pipeline.errors import Retry, Stop
from schemas.topics import ANY_ARRIVAL, CATALOGUE, METERED, SHARDS, Topic
from streams.ask_leader import offsets
from streams.cluster import ask_for_topics, unanswered

_ANSWER_SECONDS_MAX = 15.0


def shards_of(kafka: Mapping[str, str]) -> int:
    """How many shards the deployment on a cluster has; `SHARDS` where there is none yet.

    Raises:
        Stop: the configuration is none, or this user may not log in.
        Retry: no broker answers.
    """
    return _existing_partitions(kafka).get(METERED.name, SHARDS)


def create_topics(
    kafka: Mapping[str, str],
    catalogue: Iterable[Topic] = CATALOGUE,
    *,
    replication_factor: int = 1,
    keep_for_ever: bool = False,
) -> None:
    """Creates each topic of the catalogue that the broker does not have; others stay as they are.

    `kafka` is a librdkafka configuration. `keep_for_ever` sets no time limit on any new topic: a
    local broker where traces are replayed with their own arrival times would delete old records,
    or refuse them, as those that are ahead of its clock.

    Raises:
        Stop: an existing topic has another number of partitions than its shards need, or the
            broker refuses a topic.
        Retry: no broker answers.
    """
    partitions = _existing_partitions(kafka)
    wanted = list(catalogue)
    _require_shards(wanted, partitions)
    missing = [
        NewTopic(
            topic.name,
            topic.partitions,
            replication_factor,
            config={
                "cleanup.policy": "compact" if topic.compacted else "delete",
                "retention.ms": str(-1 if keep_for_ever else topic.retention_ms),
                **topic.config,
                **(ANY_ARRIVAL if keep_for_ever else {}),
            },
        )
        for topic in wanted
        if topic.name not in partitions
    ]
    if not missing:
        return
    admin = AdminClient({"log_level": 2, **kafka})
    for name, created in admin.create_topics(missing).items():
        try:
            created.result(_ANSWER_SECONDS_MAX)
        except KafkaException as error:
            # Another process had the same idea at the same moment.
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise Stop(
                    f"The topic {name} cannot be created: {error.args[0].str()}.",
                    remedy="Check the broker's replication factor and this user's rights (ACLs).",
                ) from error
    known = _wait_until_known(kafka, wanted)
    _wait_until_led(kafka, {topic.topic: known[topic.topic] for topic in missing})


def _existing_partitions(kafka: Mapping[str, str]) -> dict[str, int]:
    """The number of partitions of each topic on the broker that has its leaders."""
    try:
        topics = ask_for_topics(kafka, _ANSWER_SECONDS_MAX).topics
    except KafkaException as error:
        raise unanswered(kafka, error) from error
    return {
        name: len(topic.partitions)
        for name, topic in topics.items()
        if all(partition.leader >= 0 for partition in topic.partitions.values())
    }


def _wait_until_known(kafka: Mapping[str, str], wanted: Iterable[Topic]) -> dict[str, int]:
    """The controller says yes before the brokers have heard of it. How many partitions each has."""
    deadline = time.monotonic() + _ANSWER_SECONDS_MAX
    known: dict[str, int] = {}
    unknown = {topic.name for topic in wanted}
    while unknown and time.monotonic() < deadline:
        partitions = _existing_partitions(kafka)
        _require_shards(wanted, partitions)
        known |= partitions
        if unknown := unknown - known.keys():
            time.sleep(0.02)
    if unknown:
        raise Retry(
            f"The brokers do not know these new topics yet: {', '.join(sorted(unknown))}.",
            remedy="Check that the cluster is healthy and run this again.",
        )
    return known


def _wait_until_led(kafka: Mapping[str, str], partitions: Mapping[str, int]) -> None:
    """The brokers have heard of a leader before it takes office.

    What is sent to it meanwhile it refuses; what comes next, and is taken, then lies before what
    was sent first (https://issues.apache.org/jira/browse/KAFKA-15591).
    """
    places = [(name, number) for name, count in partitions.items() for number in range(count)]
    ends = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    try:
        offsets(kafka, ends, places, _ANSWER_SECONDS_MAX)
    except KafkaException as error:
        raise unanswered(kafka, error) from error


def _require_shards(wanted: Iterable[Topic], partitions: Mapping[str, int]) -> None:
    """Sharded topics must be of one count; only others may be repartitioned."""
    wrong = [
        f"{topic.name} has {partitions[topic.name]} instead of {topic.partitions}"
        for topic in wanted
        if topic.is_sharded and partitions.get(topic.name, topic.partitions) != topic.partitions
    ]
    if wrong:
        raise Stop(
            f"Each shard needs one partition of each topic: {', '.join(wrong)}.",
            remedy="A customer's shard depends on the number of shards, which never changes. Point "
            "Meterline at the cluster that it was set up on, or move these topics away and "
            "create them anew.",
        )
