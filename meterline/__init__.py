"""Meterline's public face: everything a program that uses Meterline imports."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.errors import MeterlineError, Reject, Retry, Stop
    from schemas.usage_event import UsageEvent
    from streams.delivery_failures import DeliveryFailed
    from streams.producer import Producer

__all__ = ["DeliveryFailed", "MeterlineError", "Producer", "Reject", "Retry", "Stop", "UsageEvent"]

_HOMES = {
    "streams.producer": ("Producer",),
    "streams.delivery_failures": ("DeliveryFailed",),
    "pipeline.errors": ("MeterlineError", "Reject", "Retry", "Stop"),
    "schemas.usage_event": ("UsageEvent",),
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: `meterline --help` needs none of them."""
    for home, names in _HOMES.items():
        if name in names:
            try:
                return getattr(import_module(home), name)
            except ImportError:
                _require_own_packages()
                raise
    raise AttributeError(f"module 'meterline' has no attribute {name!r}")


def _require_own_packages() -> None:
    """Python finds a program's own `schemas.py` before our package of that name.

    Raises:
        ImportError: it did, or another of that kind.
    """
    for home in _HOMES:
        package = home.partition(".")[0]
        found = find_spec(package)
        ours = Path(__file__).parents[1] / package / "__init__.py"
        if found and found.origin and Path(found.origin) != ours:
            raise ImportError(f"{found.origin} hides Meterline's package {package}: rename it.")
