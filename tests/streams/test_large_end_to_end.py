"""On a real Kafka: a few bytes that become many are rejected, and whoever comes after counts."""

from __future__ import annotations

import base64
import os
import threading
from collections.abc import Mapping

import confluent_kafka

from pipeline.open_frame import open_frame
from pipeline.reject import DeadLetter, open_letter
from schemas import topics
from schemas.frame import Kind
from schemas.usage_event import PACKED, STRUCTURED
from streams.backlog import backlog
from streams.chain import Tail
from streams.confluent import ConfluentClients
from streams.intake import IntakeStage
from streams.transact import Transactor
from tests.pipeline.usage_log import TOKENS, event
from tests.streams.on_kafka import running, wait_until

MEBIBYTE = 1024 * 1024
#: Of 16 MiB; what zstd and gzip make a fourth smaller, and lz4 not at all.
TEXT = base64.b64encode(os.urandom(12 * MEBIBYTE)).decode()


def send(kafka: Mapping[str, str], value: bytes, content_type: str, compression: str) -> None:
    producer = confluent_kafka.Producer(
        {**kafka, "compression.type": compression, "message.max.bytes": 500_000_000}
    )
    failed: list[confluent_kafka.KafkaError] = []
    producer.produce(
        topics.EVENTS.name,
        value,
        key=b"cus_1",
        partition=3,
        headers={"content-type": content_type, "trace": b"1"},
        on_delivery=lambda error, _: failed.extend([error] if error else []),
    )
    assert producer.flush(60) == 0
    assert not failed


def take_in(kafka: Mapping[str, str]) -> tuple[list[DeadLetter], int]:
    """What intake rejects of all that is there, and how many events it packs."""
    stop = threading.Event()
    intake = Transactor(IntakeStage(TOKENS), ConfluentClients(kafka), instance="t", stop=stop)
    with running(intake, stop):
        wait_until(lambda: not backlog(kafka, "intake", [topics.EVENTS.name]), "intake is done")
    tail = Tail(kafka)
    frames = map(open_frame, tail.read(topics.METERED.name))
    packed = sum(frame.parts[0].num_rows for frame in frames if frame.kind is Kind.PACK)
    return list(map(open_letter, tail.read(topics.REJECTED.name))), packed


def test_what_zstd_made_a_hundredth_or_less_is_read_and_rejected(empty_kafka: str) -> None:
    kafka = {"bootstrap.servers": empty_kafka}
    send(kafka, b"[" + b"0" * 120 * MEBIBYTE, STRUCTURED, "zstd")
    send(kafka, event("after"), STRUCTURED, "none")
    ((letter,), packed) = take_in(kafka)
    assert (letter.reason, letter.left_out, packed) == ("too_large", "value", 1)


def test_what_is_too_large_only_when_it_is_unpacked_is_rejected_and_intake_goes_on(
    empty_kafka: str,
) -> None:
    kafka = {"bootstrap.servers": empty_kafka}
    kept = event(data={"n": 1, "model": TEXT[: 13 * MEBIBYTE]})
    send(kafka, event(data={"n": 1, "model": TEXT}), STRUCTURED, "zstd")
    send(kafka, event(data={"n": 1, "model": TEXT[:MEBIBYTE] * 40}), STRUCTURED, "zstd")
    send(kafka, b'["' + TEXT.encode() + b'"]', PACKED, "gzip")
    send(kafka, kept, STRUCTURED, "zstd")
    send(kafka, event("after"), STRUCTURED, "none")
    letters, packed = take_in(kafka)
    assert packed == 1
    assert [letter.reason for letter in letters] == ["too_large"] * 4
    assert [letter.left_out for letter in letters] == ["value", "value", "value", ""]
    assert [letter.original.value for letter in letters] == [None, None, None, kept]
    for letter in letters:
        assert letter.original.key == b"cus_1"
        assert dict(letter.original.headers)["trace"] == b"1"
