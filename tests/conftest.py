"""What tests of every room share: real brokers, started when the first test asks."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from streams.local_kafka import LocalKafka
from streams.topics import create_topics
from tests.streams.on_kafka import delete_catalogue

# A shell that runs the tests in the background lets them, and what they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Whoever writes no bytecode would have each of the many processes that tests start compile anew
# whatever of ours it imports, which takes it a third longer.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# How long an example takes is no property of the product, and differs with what else runs.
settings.register_profile("without deadlines", deadline=None)
settings.load_profile("without deadlines")


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    """The address of one broker for the whole session: name topics and groups uniquely."""
    with LocalKafka() as broker:
        yield broker.address


@pytest.fixture
def bare_kafka(kafka: str) -> Iterator[str]:
    """The same without any topic of the catalogue; what a test creates of it is deleted again."""
    yield kafka
    delete_catalogue(kafka)


@pytest.fixture
def empty_kafka(bare_kafka: str) -> str:
    """The same with the catalogue's topics, all of them empty, and groups that know nothing."""
    create_topics({"bootstrap.servers": bare_kafka}, keep_for_ever=True)
    return bare_kafka


@pytest.fixture
def broker() -> Iterator[LocalKafka]:
    """A broker of the test's own, with the catalogue's topics, to fill, kill and start again."""
    with LocalKafka() as broker:
        create_topics({"bootstrap.servers": broker.address}, keep_for_ever=True)
        yield broker
