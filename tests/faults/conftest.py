"""Brokers for tests that bring their own size of deployment."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from streams.local_kafka import LocalKafka


@pytest.fixture
def bare_broker() -> Iterator[LocalKafka]:
    """A broker of the test's own without a topic, to fill, kill and start again."""
    with LocalKafka() as broker:
        yield broker
