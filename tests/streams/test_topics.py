"""The catalogue reaches a broker whole, once, and never over what is there."""

from __future__ import annotations

import time

import pytest
from confluent_kafka import KafkaError, Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._resource import ResourceType

from pipeline.errors import Retry, Stop
from pipeline.periods import DISORDER_DAYS
from schemas.topics import CATALOGUE, EVENTS, SHARDS, Topic
from streams.topics import create_topics


def described(address: str, name: str) -> tuple[int, dict[str, str]]:
    """The topic's number of partitions and its settings."""
    admin = AdminClient({"bootstrap.servers": address})
    topics = admin.describe_topics(TopicCollection([name]))
    resource = ConfigResource(ResourceType.TOPIC, name)
    settings = admin.describe_configs([resource])[resource].result(10)
    partitions = len(topics[name].result(10).partitions)
    return partitions, {key: entry.value for key, entry in settings.items()}


def of_another_name(topic: Topic, prefix: str) -> Topic:
    return Topic(
        prefix + topic.name,
        topic.partitions,
        topic.retention_ms,
        topic.meaning,
        topic.compacted,
        topic.config,
        topic.is_sharded,
    )


def test_every_topic_of_the_catalogue_is_created_as_it_says(kafka: str) -> None:
    catalogue = [of_another_name(topic, "as-it-says.") for topic in CATALOGUE]
    create_topics({"bootstrap.servers": kafka}, catalogue)
    for topic in catalogue:
        partitions, settings = described(kafka, topic.name)
        assert partitions == topic.partitions
        assert settings["cleanup.policy"] == ("compact" if topic.compacted else "delete")
        assert settings["retention.ms"] == str(topic.retention_ms)
        assert {key: settings[key] for key in topic.config} == topic.config


def test_each_partition_of_a_topic_that_was_created_has_a_leader_in_office(kafka: str) -> None:
    """Events sent to it at once keep their order."""
    many = Topic("led.events", 100, 60_000, "many partitions", False, {}, False)
    create_topics({"bootstrap.servers": kafka}, [many])
    admin = AdminClient({"bootstrap.servers": kafka})
    ends = {
        TopicPartition(many.name, partition): OffsetSpec.latest()  # type: ignore[no-untyped-call]
        for partition in range(many.partitions)
    }
    assert {end.result(10).offset for end in admin.list_offsets(ends).values()} == {0}


def test_keeping_for_ever_sets_no_time_limit_anywhere(kafka: str) -> None:
    catalogue = [of_another_name(topic, "for-ever.") for topic in CATALOGUE]
    create_topics({"bootstrap.servers": kafka}, catalogue, keep_for_ever=True)
    assert {described(kafka, topic.name)[1]["retention.ms"] for topic in catalogue} == {"-1"}


@pytest.mark.parametrize(
    ("days", "keep_for_ever", "is_taken"),
    [
        (71, False, False),
        (71, True, True),
        (1 - DISORDER_DAYS, False, True),
        (-DISORDER_DAYS - 1, False, False),
        (-400, True, True),
    ],
)
def test_arrivals_far_ahead_and_too_old_to_be_kept_are_refused_where_no_trace_is_replayed(
    kafka: str, days: int, keep_for_ever: bool, is_taken: bool
) -> None:
    events = of_another_name(EVENTS, f"of-{days}-days.{keep_for_ever}.")
    create_topics({"bootstrap.servers": kafka}, [events], keep_for_ever=keep_for_ever)
    refused: list[KafkaError] = []
    producer = Producer({"bootstrap.servers": kafka})
    producer.produce(
        events.name,
        b"{}",
        timestamp=int((time.time() + days * 86_400) * 1_000),
        on_delivery=lambda error, _: refused.append(error) if error else None,
    )
    assert producer.flush(30) == 0
    assert [error.code() for error in refused] == [KafkaError.INVALID_TIMESTAMP] * (not is_taken)


def test_creating_again_leaves_existing_topics_alone(kafka: str) -> None:
    first = Topic("again", 8, 1000, "as it was first created", is_sharded=False)
    create_topics({"bootstrap.servers": kafka}, [first])
    wanted = Topic("again", 4, 2000, "as it is wanted now", is_sharded=False)
    create_topics({"bootstrap.servers": kafka}, [wanted])
    partitions, settings = described(kafka, "again")
    assert (partitions, settings["retention.ms"]) == (8, "1000")


def test_a_sharded_topic_of_another_count_stops_before_anything_is_created(
    kafka: str,
) -> None:
    create_topics({"bootstrap.servers": kafka}, [Topic("mismatch.old", 5, -1, "")])
    catalogue = [
        Topic("mismatch.new", SHARDS, -1, "missing"),
        Topic("mismatch.old", SHARDS, -1, "there, with five partitions"),
    ]
    with pytest.raises(Stop, match=r"mismatch\.old has 5 instead of 16") as stop:
        create_topics({"bootstrap.servers": kafka}, catalogue)
    assert "never changes" in stop.value.remedy
    admin = AdminClient({"bootstrap.servers": kafka})
    assert "mismatch.new" not in admin.list_topics(timeout=10).topics


def test_a_refused_topic_is_named_with_what_to_check(kafka: str) -> None:
    with pytest.raises(Stop, match=r"refused.*replication") as stop:
        create_topics(
            {"bootstrap.servers": kafka}, [Topic("refused", 1, -1, "")], replication_factor=3
        )
    assert "replication factor" in stop.value.remedy


def test_no_broker_is_a_reason_to_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.topics._ANSWER_SECONDS_MAX", 1.0)
    with pytest.raises(Retry, match="does not answer"):
        create_topics({"bootstrap.servers": "127.0.0.1:1", "log_level": "0"})
