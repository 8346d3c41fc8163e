"""What is no answer of Stripe's API is met like a lost connection, whoever asked."""

from __future__ import annotations

import re
import time

import pytest
from pydantic import SecretStr

from pipeline.errors import Retry
from pipeline.reconcile_bill import Window
from sinks.stripe import transport
from sinks.stripe.client import stripe_client
from sinks.stripe.look import active_meters, try_stand_in
from sinks.stripe.read import meter_ids, summaries
from tests.sinks.stripe.delivering import KEY, START_MS, Clock, delta, refusal, sink_to
from tests.sinks.stripe.gateway import gateway

FOREIGN = [
    (502, b'{"status":502,"error":"Bad Gateway","path":"/v1/billing/meter_events"}'),
    (429, b'{"error":"Too Many Requests"}'),
    (400, b'{"error":"invalid_request"}'),
    (503, b'{"error":null}'),
    (503, b'{"error":["overloaded"]}'),
    (503, b'{"message":"no"}'),
    (503, b'"error"'),
    (400, b'{"error":{"type":"invalid_request_error","message":5}}'),
    (400, b'{"error":{"type":"invalid_request_error","message":"x","code":400}}'),
    (500, b"\xff\xfe"),
    (503, b"<html>"),
    (503, b"[" * 100_000),
    (200, b"<html>"),
    (200, b""),
    (200, b"null"),
    (200, b"[]"),
    (200, b'{"status":"ok"}'),
]


@pytest.mark.parametrize(("status", "body"), FOREIGN)
def test_an_answer_that_is_not_stripe_s_is_asked_for_again_later(status: int, body: bytes) -> None:
    window = Window("cus_1", "tokens", 0, 86_400_000)
    with gateway(status, body) as url:
        client = stripe_client(SecretStr(KEY), url)
        said = rf"HTTP {status}\): the answer is not one of Stripe"
        assert re.search(said, refusal(sink_to(url, Clock()), [delta(0)], START_MS).message)
        for ask in (
            lambda: meter_ids(client),
            lambda: summaries(client, [window], {"tokens": "mtr_1"}, calls_per_second=1000),
            lambda: active_meters(client),
            lambda: try_stand_in(client),
        ):
            with pytest.raises(Retry, match=said):
                ask()


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, b'{"error":{"code":"400","message":"Bad Request","status":"INVALID_ARGUMENT"}}'),
        (400, b'{"error":{"message":"An event already exists with identifier x"}}'),
        (401, b'{"error":{"message":"no session"}}'),
        (402, b'{"error":{"message":"quota"}}'),
        (403, b'{"error":{"type":"forbidden","message":"blocked by policy"}}'),
        (404, b'{"error":{"message":"no healthy upstream route"}}'),
    ],
)
def test_a_gateway_s_refusal_refuses_no_delta_and_blames_no_key(status: int, body: bytes) -> None:
    with gateway(status, body) as url:
        remedy = refusal(sink_to(url, Clock()), [delta(0)], START_MS).remedy
        assert "proxy" in remedy
        assert "KEY" not in remedy
        with pytest.raises(Retry):
            meter_ids(stripe_client(SecretStr(KEY), url))


def test_an_answer_that_comes_byte_by_byte_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transport, "_BODY_SECONDS_MAX", 0.2)
    with gateway(200, b" " * 600, seconds_a_byte=0.05) as url:
        begin = time.monotonic()
        asked = refusal(sink_to(url, Clock()), [delta(0)], START_MS)
        assert "too slowly" in asked.message
        assert time.monotonic() - begin < 10
