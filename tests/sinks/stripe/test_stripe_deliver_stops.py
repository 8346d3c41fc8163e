"""A wrong key or a broken outbox stops the delivery at once, and the key is never shown."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator

import pytest

from pipeline.errors import MeterlineError, Stop
from pipeline.record import Record
from schemas.topics import OUTBOX
from sinks.stripe.account import Fault
from sinks.stripe.stand_in import StripeStandIn, no_faults
from tests.sinks.stripe.delivering import (
    KEY,
    START_MS,
    Clock,
    deliveries,
    delta,
    in_turn,
    records,
    said,
    sink,
)


def test_a_failure_ends_the_write_before_all_other_customers_were_tried() -> None:
    deltas = [delta(0, f"cus_{number}") for number in range(300)]
    with StripeStandIn(KEY, faults=in_turn(Fault.FORBIDDEN)) as stand_in:
        with pytest.raises(Stop):
            deliveries(sink(stand_in, Clock()), deltas, START_MS)
        assert len(stand_in.journal) < 200


@pytest.mark.parametrize("fault", [Fault.FORBIDDEN, None])
def test_a_key_that_is_wrong_or_may_not_write_stops(fault: Fault | None) -> None:
    with StripeStandIn(KEY, faults=in_turn(fault)) as stand_in:
        key = KEY if fault else "rk_live_another"
        with pytest.raises(Stop, match="METERLINE_STRIPE_API_KEY"):
            deliveries(sink(stand_in, Clock(), key), [delta(0), delta(1)], START_MS)
        assert not stand_in.journal


def test_what_is_no_delta_stops_before_anything_is_sent() -> None:
    with StripeStandIn(KEY) as stand_in:
        broken = Record(OUTBOX.name, 0, 1, START_MS, None, b"{}")
        with pytest.raises(Stop, match="at offset 1 is not a delta"):
            sink(stand_in, Clock()).write([*records([delta(0)]), broken], START_MS)
        assert not stand_in.journal


def failures() -> Iterator[tuple[Callable[[], StripeStandIn], str]]:
    """Each way to fail: a stand-in, and the key to come with."""
    for fault in Fault:
        yield lambda fault=fault: StripeStandIn(KEY, faults=lambda _call: fault), KEY  # type: ignore[misc]
    yield lambda: StripeStandIn("rk_live_another"), KEY
    yield lambda: StripeStandIn(KEY, customers=(), refuses_unknown=True), KEY
    yield lambda: StripeStandIn(KEY, faults=no_faults), f"{KEY}\n"


def test_the_key_is_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    shown: list[str] = []
    with caplog.at_level(logging.DEBUG):
        for start, key in failures():
            with start() as stand_in:
                try:
                    written = sink(stand_in, Clock(), key).write(records([delta(0)]), START_MS)
                    shown += [each.model_dump_json() for each in said(written)]
                    shown.append(repr(written.refusal))
                except MeterlineError as error:
                    shown += [repr(error), "".join(traceback.format_exception(error))]
    assert len(shown) > len(Fault)
    assert delta(0).identifier in caplog.text, "the SDK's own log was captured"
    assert KEY not in "".join(shown) + caplog.text
    assert "canary" not in "".join(shown) + caplog.text
