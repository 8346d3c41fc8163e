"""Calls are spaced out as the rate says, and a pause holds all of them back."""

from __future__ import annotations

from sinks.stripe.pace import Pace


class Clock:
    """Time that passes only while someone sleeps."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


def test_no_more_calls_go_out_than_the_rate_allows() -> None:
    clock = Clock()
    pace = Pace(4, sleep=clock.sleep, monotonic=lambda: clock.seconds)
    times = []
    for _ in range(5):
        pace.wait()
        times.append(clock.seconds)
    assert times == [100, 100.25, 100.5, 100.75, 101]


def test_time_in_which_nobody_called_is_not_saved_up() -> None:
    clock = Clock()
    pace = Pace(4, sleep=clock.sleep, monotonic=lambda: clock.seconds)
    pace.wait()
    clock.seconds = 200
    pace.wait()
    pace.wait()
    assert clock.seconds == 200.25


def test_after_a_pause_the_next_call_waits_it_out() -> None:
    clock = Clock()
    pace = Pace(4, sleep=clock.sleep, monotonic=lambda: clock.seconds)
    pace.wait()
    pace.pause(7)
    pace.wait()
    assert clock.seconds == 107
