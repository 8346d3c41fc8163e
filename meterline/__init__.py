"""Meterline's public face: everything a program that uses Meterline imports."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.errors import MeterlineError, Reject, Retry, Stop
    from schemas.usage_event import UsageEvent
    from streams.producer import DeliveryFailed, Producer

__all__ = ["DeliveryFailed", "MeterlineError", "Producer", "Reject", "Retry", "Stop", "UsageEvent"]

_HOMES = {
    "streams.producer": ("DeliveryFailed", "Producer"),
    "pipeline.errors": ("MeterlineError", "Reject", "Retry", "Stop"),
    "schemas.usage_event": ("UsageEvent",),
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: `meterline --help` needs none of them."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'meterline' has no attribute {name!r}")
