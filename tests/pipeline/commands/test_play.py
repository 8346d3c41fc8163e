from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.progress import Progress

from pipeline.commands.play import Play
from pipeline.commands.supervise import Supervisor
from pipeline.ingest_file import Line, read_ndjson
from schemas import topics
from streams.local_kafka import LocalKafka
from streams.read import read_to_end
from streams.topics import create_topics

EVENTS = 1_000


def test_a_broker_that_dies_after_the_last_event_was_handed_over_is_started_again(
    tmp_path: Path,
) -> None:
    with (
        LocalKafka() as broker,
        Supervisor((), {}, tmp_path, print) as no_stages,
        Progress(disable=True) as progress,
    ):
        kafka = {"bootstrap.servers": broker.address}
        create_topics(kafka, topics.sized(shards=1, event_partitions=1))

        def lines() -> Iterator[Line]:
            yield from read_ndjson(b"%d" % number for number in range(EVENTS))
            broker.kill()

        Play(kafka, no_stages, broker.revive, progress).send(lines(), EVENTS)
        found = {int(record.value or b"") for record in read_to_end(kafka, topics.EVENTS.name, 0)}
    # It may have taken a batch twice; intake recognises that.
    assert found == set(range(EVENTS))
