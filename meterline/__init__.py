"""Meterline's public face: everything a program that uses Meterline imports."""

from pipeline.errors import MeterlineError, Reject, Retry, Stop
from schemas.usage_event import UsageEvent
from streams.producer import DeliveryFailed, Producer

__all__ = ["DeliveryFailed", "MeterlineError", "Producer", "Reject", "Retry", "Stop", "UsageEvent"]
