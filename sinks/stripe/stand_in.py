"""A stand-in for Stripe on this machine, to be driven by the real SDK: for the demo and tests.

It keeps what Stripe keeps about meter events, and goes wrong where Stripe may go wrong, on
command. It is not for production: what it takes is gone when it is closed.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import random
import re
import socket
import sys
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from decimal import Context, Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from sinks.stripe.account import Account, Answer, Call, Fault, Faults, MeterEvent, call_of, refusal
from sinks.stripe.summaries import meters, summaries

#: The default of 28 digits would round large sums.
_EXACT = Context(prec=400)
_SUMMARIES = re.compile(r"/v1/billing/meters/([^/]+)/event_summaries")


def no_faults(_call: Call) -> Fault | None:
    """Nothing goes wrong."""
    return None


def seeded_faults(seed: int, rates: Mapping[Fault, float]) -> Faults:
    """Each fault with its rate, from 0 to 1; the same for the same calls, whatever their order."""
    seen: dict[str, int] = {}

    def fault(call: Call) -> Fault | None:
        seen[call.identifier] = seen.get(call.identifier, 0) + 1
        draw = random.Random(f"{seed}/{call.identifier}/{seen[call.identifier]}").random()
        for kind, rate in rates.items():
            if draw < rate:
                return kind
            draw -= rate
        return None

    return fault


class StripeStandIn:
    """Serves meter events, meters and their event summaries on 127.0.0.1 while it is open."""

    def __init__(
        self,
        api_key: str,
        *,
        now_ms: Callable[[], int] | None = None,
        refuses_future: bool = True,
        faults: Faults = no_faults,
        meters: Collection[str] | None = None,
        customers: Collection[str] | None = None,
        refuses_unknown: bool = False,
        retry_after_seconds: int = 2,
    ) -> None:
        """Start serving at `url`.

        Args:
            api_key: the only key that is let in.
            now_ms: Stripe's clock in milliseconds since 1970; without one, no timestamp is too
                old or too new and no identifier is ever forgotten.
            refuses_future: whether a timestamp may not be ahead of that clock.
            faults: decides for each call what goes wrong with it.
            meters: event names that have a meter; None for any.
            customers: Stripe's customers; None for any.
            refuses_unknown: whether an unknown meter or customer is refused at once. Otherwise
                such an event is answered with 200 and only shows in `unmatched`, as Stripe may.
            retry_after_seconds: what `Fault.RATE_LIMITED` asks for.
        """
        self._account = Account(
            now_ms=now_ms,
            refuses_future=refuses_future,
            faults=faults,
            meters=meters,
            customers=customers,
            refuses_unknown=refuses_unknown,
            retry_after_seconds=retry_after_seconds,
        )
        self._server = _Server(self._account, api_key)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """What METERLINE_STRIPE_API_BASE must be to be served here."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def journal(self) -> Sequence[MeterEvent]:
        """Every meter event that counts, in the order of its arrival."""
        return tuple(self._account.journal)

    @property
    def unmatched(self) -> Sequence[MeterEvent]:
        """Events taken with 200 that count nowhere: their meter or customer is unknown."""
        return tuple(self._account.unmatched)

    def sums(self) -> dict[tuple[str, str], Decimal]:
        """What has been taken, exactly, by (stripe_customer_id, event_name)."""
        totals: dict[tuple[str, str], Decimal] = {}
        for event in self.journal:
            key = (event.stripe_customer_id, event.event_name)
            totals[key] = _EXACT.add(totals.get(key, Decimal(0)), event.value)
        return totals

    def close(self) -> None:
        """Stop serving, and drop every connection."""
        self._server.shutdown()
        self._server.close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    #: All connections of a client may come at once.
    request_queue_size = 256

    def __init__(self, account: Account, api_key: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.account = account
        self.authorization = f"Bearer {api_key}".encode()
        self.connections: set[socket.socket] = set()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed in the middle of a call is no news."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def close(self) -> None:
        """Give up the port and every kept-alive connection."""
        self.server_close()
        for connection in tuple(self.connections):
            # The client may have hung up first.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    #: Buffered, so that head and body leave in one packet.
    wbufsize = -1

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
        if urlsplit(self.path).path == "/v1/billing/meter_events":
            key = self.headers.get("Idempotency-Key") or ""
            self._answer(lambda: self.server.account.create(call_of(body, key)))
        else:
            self._answer(self._unrecognized)

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        meter = _SUMMARIES.fullmatch(parts.path)
        if meter:
            query = dict(parse_qsl(parts.query))
            journal = tuple(self.server.account.journal)
            self._answer(lambda: summaries(journal, meter[1], query))
        elif parts.path == "/v1/billing/meters":
            self._answer(lambda: meters(self.server.account.event_names()))
        else:
            self._answer(self._unrecognized)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: whoever drives the stand-in logs."""

    def _unrecognized(self) -> Answer:
        return refusal(404, f"Unrecognized request URL ({self.command}: {self.path}).")

    def _answer(self, serve: Callable[[], Answer]) -> None:
        given = self.headers.get("Authorization", "").encode()
        if hmac.compare_digest(given, self.server.authorization):
            answer = serve()
        else:
            answer = refusal(401, "Invalid API Key provided.")
        if answer.status is None:
            self.close_connection = True
            return
        body = json.dumps(answer.body).encode()
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Type": "application/json"}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
