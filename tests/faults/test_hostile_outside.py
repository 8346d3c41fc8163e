"""Hostile records on the way to Stripe and to ClickHouse: a clear stop, never a wrong bill."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from typing import Any, NoReturn

import msgspec
import pytest
from pydantic import SecretStr

from pipeline.errors import Stop
from pipeline.record import Outgoing, Sink
from schemas import topics
from sinks.clickhouse.write import ClickHouseSink
from sinks.stripe.client import LIVE_CALLS_PER_SECOND, stripe_client
from sinks.stripe.deliver import StripeSink
from sinks.stripe.stand_in import StripeStandIn
from streams.bill import BillStage
from streams.confluent import ConfluentClients
from streams.deliver import Deliverer
from tests.faults.hostile import (
    BAD,
    DEFINITIONS,
    FRAMES,
    SHARDS,
    SOME,
    counted,
    everything,
    publish,
    require,
    stop_of,
    tampered,
)
from tests.streams.on_kafka import committed, run_to_its_end

# Bill


@pytest.mark.parametrize("how", SOME)
def test_bill_stops_at_what_are_no_totals(address: str, how: str) -> None:
    totals, offset = tampered(counted()[topics.TOTALS.name], how)
    publish(address, totals)
    place = rf"usage\.totals-{BAD} at offset {offset}\b"
    require(stop_of(address, BillStage(DEFINITIONS, SHARDS)), place, FRAMES[how][1])


def test_bill_stops_at_totals_of_another_shard(address: str) -> None:
    """They would be billed twice."""
    totals = counted()[topics.TOTALS.name]
    stray = next(each for each in totals if each.partition != BAD)
    places = publish(address, [*totals, Outgoing(stray.topic, stray.value, partition=BAD)])
    stop = stop_of(address, BillStage(DEFINITIONS, SHARDS))
    require(stop, rf"usage\.totals-{BAD} at offset {places[-1][1]}", "belongs to shard 0 of 2")


def broken_json(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()[:-5]


def with_a_field_more(value: dict[str, Any]) -> bytes:
    return json.dumps(value | {"currency": "EUR"}).encode()


def with_a_broken_value(value: dict[str, Any]) -> bytes:
    return json.dumps(value | dict.fromkeys(("value", "next_offset"), "12,5")).encode()


JSON = [broken_json, with_a_field_more, with_a_broken_value]


@pytest.mark.parametrize("tamper", JSON)
@pytest.mark.parametrize("which", ["frozen", "position"])
def test_bill_stops_at_state_that_it_did_not_write(
    address: str, which: str, tamper: Callable[[dict[str, Any]], bytes]
) -> None:
    written = counted()
    state = [each for each in written[topics.BILL_STATE.name] if each.partition == BAD]
    index = next(
        n for n, e in enumerate(state) if (e.key == b'"next_offset"') == (which == "position")
    )
    value = msgspec.json.decode(state[index].value or b"")
    state[index] = Outgoing(state[index].topic, tamper(value), state[index].key, BAD)
    publish(address, written[topics.TOTALS.name] + state)
    stop = stop_of(address, BillStage(DEFINITIONS, SHARDS))
    require(stop, rf"usage\.bill\.state-{BAD} at offset {index} is no state", "upgrade", "backup")


def test_bill_stops_where_a_frozen_total_is_missing(address: str) -> None:
    """It would be billed again from zero."""
    written = counted()
    state = [each for each in written[topics.BILL_STATE.name] if each.partition == BAD]
    lost = state[0].key
    publish(address, written[topics.TOTALS.name] + [each for each in state if each.key != lost])
    stop = stop_of(address, BillStage(DEFINITIONS, SHARDS))
    require(stop, rf"usage\.bill\.state-{BAD} has \d+ of \d+ frozen totals")


def test_bill_stops_at_state_of_another_number_of_shards(address: str) -> None:
    of_three = counted(shards=3)[topics.BILL_STATE.name]
    publish(address, counted()[topics.TOTALS.name])
    publish(address, [each for each in of_three if each.partition == BAD])
    stop = stop_of(address, BillStage(DEFINITIONS, SHARDS))
    require(stop, rf"usage\.bill\.state-{BAD} has customer", "belongs to shard 0 of 2")


# Sinks


def stop_of_sink(address: str, name: str, sink: Sink, **how: Any) -> Stop:
    before = everything(address)
    stop = threading.Event()
    clients = ConfluentClients({"bootstrap.servers": address, "log_level": "0"})
    loop = Deliverer(name, sink, clients, instance="a", stop=stop, linger_ms=500, **how)
    with pytest.raises(Stop) as stopped:
        run_to_its_end(loop, stop)
    assert everything(address) == before
    return stopped.value


@pytest.mark.parametrize("tamper", JSON)
def test_stripe_gets_nothing_of_a_batch_with_what_is_no_delta(
    address: str, tamper: Callable[[dict[str, Any]], bytes]
) -> None:
    outbox = [e for e in counted()[topics.OUTBOX.name] if e.partition == BAD]
    outbox[2] = Outgoing(
        topics.OUTBOX.name, tamper(json.loads(outbox[2].value or b"")), outbox[2].key, BAD
    )
    publish(address, outbox)
    key = "rk_live_stand_in"
    with StripeStandIn(key) as stripe:
        client = stripe_client(SecretStr(key), stripe.url)
        sink = StripeSink(client, calls_per_second=LIVE_CALLS_PER_SECOND)
        stop = stop_of_sink(address, "stripe", sink, notes_attempts=True)
        assert stripe.journal == ()
    require(stop, rf"usage\.outbox/{BAD} at offset 2", "upgrade")
    assert committed(address, "stripe", topics.OUTBOX.name)[BAD][0] == 0


class Untouched:
    """A database that nothing may be written to."""

    def client(self) -> NoReturn:
        """Fail."""
        pytest.fail("something was written")


@pytest.mark.parametrize("how", SOME)
@pytest.mark.parametrize("topic", [topics.METERED.name, topics.TOTALS.name])
def test_clickhouse_gets_nothing_of_a_batch_with_a_damaged_frame(
    address: str, topic: str, how: str
) -> None:
    written, offset = tampered(counted()[topic], how)
    publish(address, written)
    stop = stop_of_sink(address, "clickhouse", ClickHouseSink(Untouched()))
    require(stop, rf"{re.escape(topic)}-{BAD} at offset {offset}\b", FRAMES[how][1])
    assert set(committed(address, "clickhouse", topic).values()) == {(0, "")}
