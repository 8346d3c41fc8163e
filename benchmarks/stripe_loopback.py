"""The same sink over real HTTP in real time, for some seconds: what one call costs our process.

The stand-in runs in a process of its own on the same machine, without TLS, and answers at once.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection

from pydantic import SecretStr

from pipeline.record import Record
from schemas.topics import OUTBOX
from sinks.stripe.client import LIVE_CALLS_PER_SECOND, stripe_client
from sinks.stripe.deliver import StripeSink
from sinks.stripe.stand_in import StripeStandIn

_KEY = "sk_live_stand_in"
#: As the delivery loop hands them over.
_AT_ONCE = 2_000
_WARM_UP = 200


def measure(outbox: Sequence[bytes]) -> dict[str, float]:
    """Deliver `outbox`.

    Raises:
        RuntimeError: the stand-in does not have each of them.
    """
    records = [
        Record(OUTBOX.name, 0, offset, 0, None, value) for offset, value in enumerate(outbox)
    ]
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there,), daemon=True)
    process.start()
    sink = StripeSink(
        stripe_client(SecretStr(_KEY), here.recv()), calls_per_second=LIVE_CALLS_PER_SECOND
    )
    sink.write(records[:_WARM_UP], time.time_ns() // 1_000_000)
    begin, cpu_begin = time.perf_counter(), time.process_time()
    for at in range(_WARM_UP, len(records), _AT_ONCE):
        sink.write(records[at : at + _AT_ONCE], time.time_ns() // 1_000_000)
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu_begin
    here.send(None)
    taken = here.recv()
    process.join()
    if taken != len(records):
        raise RuntimeError(f"the stand-in has {taken} events of {len(records)}")
    calls = len(records) - _WARM_UP
    return {
        "deltas": len(records),
        "deltas_per_second": calls / seconds,
        "cpu_us_per_call": cpu_seconds / calls * 1e6,
    }


def _serve(connection: Connection) -> None:
    with StripeStandIn(_KEY) as stand_in:
        connection.send(stand_in.url)
        connection.recv()
        connection.send(len(stand_in.journal))
