"""What the client library raises, as those who call it can handle it."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, KafkaException

from streams.failures import untangled


def call_back(raised: BaseException | None) -> None:
    """What Python says of a callback that was made while an error was raised already."""
    raise SystemError("<function acknowledged> returned a result with an exception set") from raised


def test_a_fatal_error_is_told_from_the_callback_that_it_met() -> None:
    fenced = KafkaException(KafkaError(KafkaError._FENCED))
    with pytest.raises(KafkaException) as raised, untangled():
        call_back(fenced)
    assert raised.value is fenced


@pytest.mark.parametrize("raised", [None, ValueError("a callback's own")])
def test_what_is_no_error_of_kafka_stays_as_it_is(raised: BaseException | None) -> None:
    with pytest.raises(SystemError, match="acknowledged"), untangled():
        call_back(raised)
