"""Errors say what is wrong and what helps, also to another process."""

from __future__ import annotations

import pickle

import pytest

from pipeline.errors import MeterlineError, Reject, Retry, Stop

ERRORS = [
    Stop("It is broken.", remedy="Mend it."),
    Retry("It is busy.", remedy="Wait.", after_seconds=3.5),
    Reject("no_id", "It has no id.", remedy="Send one."),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_is_the_same_in_another_process(error: MeterlineError) -> None:
    there = pickle.loads(pickle.dumps(error))
    assert type(there) is type(error)
    assert str(there) == str(error)
    assert vars(there) == vars(error)


def test_an_error_ends_with_its_remedy() -> None:
    assert str(ERRORS[0]) == "It is broken. Remedy: Mend it."
