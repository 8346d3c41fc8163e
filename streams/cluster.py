"""What a Kafka cluster is and has: looked at, never changed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ClusterMetadata,
    ConfigResource,
    OffsetSpec,
    ResourceType,
)

from pipeline.errors import Retry, Stop
from schemas.topics import METERED, OLDEST_ARRIVAL, Topic
from streams.ask_leader import offsets
from streams.failures import stop_if_hopeless

#: Below "critical" librdkafka tells of every attempt; what matters is raised.
_QUIET = {"log_level": 2}

#: What a client tells of brokers that do answer, but not to this user.
_REFUSALS = (KafkaError._AUTHENTICATION, KafkaError._SSL)


@dataclass(frozen=True)
class TopicState:
    """One topic as the brokers have it; `config` may be empty where it may not be read."""

    partitions: int
    config: Mapping[str, str]


@dataclass(frozen=True)
class Cluster:
    """The brokers, what is known of their version, and the topics that were asked for.

    `config` is that of one broker; it may be empty where it may not be read.
    """

    brokers: int
    version: str
    config: Mapping[str, str]
    topics: Mapping[str, TopicState]


def ask_for_topics(
    kafka: Mapping[str, str], within_seconds: float, name: str | None = None
) -> ClusterMetadata:
    """What the brokers say of all topics that this user may see, or of one, which may not exist.

    Raises:
        KafkaException: no broker answers in time, or this user may not ask.
    """
    told: list[KafkaError] = []
    reader = {"group.id": "meterline.reader", "error_cb": told.append}
    # Unlike other clients, a consumer never makes a broker create what it asks for.
    consumer = Consumer({**_QUIET, **kafka, **reader})
    try:
        metadata: ClusterMetadata = consumer.list_topics(name, timeout=within_seconds)
    except KafkaException as silence:
        # What is raised is only that it was in vain; why is called back now.
        consumer.poll(0)
        for error in told:
            if error.code() in _REFUSALS:
                raise KafkaException(error) from silence
        raise
    finally:
        consumer.close()
    fault = metadata.topics[name].error if name else None
    if fault is not None and fault.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
        raise KafkaException(KafkaError(fault.code(), name))
    return metadata


def unanswered(kafka: Mapping[str, str], error: KafkaException) -> Retry:
    """What to raise for a question that `error` was the answer to.

    Raises:
        Stop: it would be so again; with what a person can do.
    """
    stop_if_hopeless(error, f"Kafka on {kafka['bootstrap.servers']}")
    return Retry(
        f"Kafka does not answer on {kafka['bootstrap.servers']}: {error.args[0].str()}.",
        remedy="Check METERLINE_BOOTSTRAP_SERVERS, METERLINE_SECURITY_PROTOCOL and that the broker "
        "runs; `meterline dev` starts one.",
    )


def look_at(kafka: Mapping[str, str], names: Collection[str], within_seconds: float) -> Cluster:
    """What a cluster says of itself and of the topics `names`; those it lacks are left out.

    Raises:
        Retry: no broker answers in time.
        Stop: this user may not log in, or not see one of them.
    """
    try:
        metadata = ask_for_topics(kafka, within_seconds)
        found = {
            name: len(topic.partitions)
            for name, topic in metadata.topics.items()
            if name in names and topic.error is None
        }
        for name in names:
            if name not in found:
                # A list just lacks what this user may not see; by its name it is denied.
                ask_for_topics(kafka, within_seconds, name)
    except KafkaException as error:
        raise unanswered(kafka, error) from error
    admin = AdminClient({**_QUIET, **kafka})
    broker = ConfigResource(ResourceType.BROKER, str(next(iter(metadata.brokers), 0)))
    resources = [broker, *(ConfigResource(ResourceType.TOPIC, name) for name in found)]
    configs: dict[str, dict[str, str]] = {}
    answers = admin.describe_configs(resources, request_timeout=within_seconds)
    for resource, answer in answers.items():
        try:
            entries = answer.result(within_seconds)
        except (KafkaException, TimeoutError):
            continue
        configs[resource.name] = {name: str(entry.value) for name, entry in entries.items()}
    return Cluster(
        len(metadata.brokers),
        _version(configs.get(broker.name)),
        configs.get(broker.name, {}),
        {name: TopicState(count, configs.get(name, {})) for name, count in found.items()},
    )


def topic_faults(wanted: Topic, topics: Mapping[str, TopicState]) -> Iterator[str]:
    """In which ways a topic is not as the catalogue wants it; longer or larger is no fault."""
    state = topics.get(wanted.name)
    if state is None:
        yield "it does not exist"
        return
    shards = topics[METERED.name].partitions if METERED.name in topics else wanted.partitions
    if wanted.is_sharded and state.partitions != shards:
        yield f"it has {state.partitions} partitions, {METERED.name} has {shards}"
    policy = "compact" if wanted.compacted else "delete"
    settings = {"cleanup.policy": policy, **wanted.config}
    if not wanted.compacted:
        settings["retention.ms"] = str(wanted.retention_ms)
    for name, value in settings.items():
        if name in state.config and not _suffices(state.config[name], value):
            yield f"{name} is {state.config[name]}, it should be {value}"
    if OLDEST_ARRIVAL in wanted.config:
        yield from _too_old_arrivals(wanted, state.config)


def require_topic(kafka: Mapping[str, str], name: str, within_seconds: float = 10) -> int:
    """Makes sure that somebody is there to take records, before a client waits for minutes.

    Returns how many partitions the topic has.

    Raises:
        Retry: no broker answers in time.
        Stop: there is no such topic, or this user may not use it.
    """
    try:
        topic = ask_for_topics(kafka, within_seconds, name).topics[name]
    except KafkaException as error:
        raise unanswered(kafka, error) from error
    if topic.error is not None:
        raise Stop(
            f"Kafka at {kafka['bootstrap.servers']} has no topic {name}: {topic.error}.",
            remedy="Create the topics with `meterline topics`.",
        )
    return len(topic.partitions)


def newest_timestamp_ms(kafka: Mapping[str, str], name: str, within_seconds: float = 10) -> int:
    """The latest timestamp of all records of a topic, milliseconds since 1970; -1 without records.

    Raises:
        Retry: no broker answers in time.
    """
    try:
        partitions = ask_for_topics(kafka, within_seconds, name).topics[name].partitions
        places = [(name, number) for number in partitions]
        newest = OffsetSpec.max_timestamp()  # type: ignore[no-untyped-call]
        found = offsets(kafka, newest, places, within_seconds).values()
        return max((at.timestamp for at in found), default=-1)
    except KafkaException as error:
        raise unanswered(kafka, error) from error


def try_transactions(kafka: Mapping[str, str], within_seconds: float) -> None:
    """Claims a transactional id of its own, as every stage does first.

    Raises:
        Stop: the cluster does not let this user transact, or cannot.
    """
    producer = Producer({**_QUIET, **kafka, "transactional.id": "meterline.doctor"})
    try:
        producer.init_transactions(within_seconds)
    except KafkaException as error:
        raise Stop(
            f"Kafka does not begin a transaction: {error.args[0].str()}.",
            remedy="Allow this user the transactional ids that begin with meterline. (ACLs), and "
            "check that the cluster has enough brokers for its transaction log.",
        ) from error


def _too_old_arrivals(wanted: Topic, config: Mapping[str, str]) -> Iterator[str]:
    """An arrival may only be as much older as records are kept longer: they are deleted by it."""
    oldest_ms, kept_ms = config.get(OLDEST_ARRIVAL), config.get("retention.ms")
    if oldest_ms is None or kept_ms is None or int(kept_ms) == -1:
        return
    limit_ms = int(wanted.config[OLDEST_ARRIVAL]) + max(int(kept_ms) - wanted.retention_ms, 0)
    if int(oldest_ms) > limit_ms:
        yield f"{OLDEST_ARRIVAL} is {oldest_ms}, it should be at most {limit_ms}"


def _suffices(actual: str, wanted: str) -> bool:
    try:
        return int(actual) == -1 or (int(wanted) != -1 and int(actual) >= int(wanted))
    except ValueError:
        return actual == wanted


def _version(broker: Mapping[str, str] | None) -> str:
    """Brokers do not tell clients their version; the setting that had it ended with Kafka 4."""
    if not broker:
        return "version unknown"
    before_4 = broker.get("inter.broker.protocol.version")
    return f"version {before_4.partition('-')[0]}" if before_4 else "version 4 or newer"
