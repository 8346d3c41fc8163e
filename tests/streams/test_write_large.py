"""What must fit into the broker is what is left of a record when it is compressed."""

from __future__ import annotations

import os

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer

from pipeline.record import Outgoing
from schemas.topics import LARGE_RECORDS, Topic
from streams.read import read_to_end
from streams.topics import create_topics
from streams.write import WRITER, write

MEBIBYTE = 1024 * 1024


def test_a_record_may_be_larger_than_its_topic_takes_if_it_is_not_when_compressed(
    kafka: str,
) -> None:
    create_topics({"bootstrap.servers": kafka}, [Topic("large", 1, -1, "", config=LARGE_RECORDS)])
    producer = Producer({"bootstrap.servers": kafka} | WRITER)
    content = b"".join(b"%020d" % number for number in range(MEBIBYTE))
    assert write(producer, [Outgoing("large", content, partition=0)]) == [(0, 0)]
    (record,) = read_to_end({"bootstrap.servers": kafka}, "large", 0, 0)
    assert record.value == content
    with pytest.raises(KafkaException) as refused:
        write(producer, [Outgoing("large", os.urandom(17 * MEBIBYTE), partition=0)])
    assert refused.value.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE
