"""The error tree, named by the reaction it asks for.

MeterlineError
├── Retry    the outside may answer later: wait and do the same again
├── Reject   this one input can never be processed: set it aside with reason and remedy
└── Stop     going on would lose or falsify something: stop and tell a person what to do
"""

from __future__ import annotations

import copyreg
from typing import Any


class MeterlineError(Exception):
    """Base of all errors that Meterline raises on purpose.

    `message` says what is wrong, `remedy` what a person can do about it.
    """

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} Remedy: {self.remedy}"

    def __reduce__(self) -> tuple[Any, ...]:
        # As it is by default, an error with a remedy would not come through to another process.
        return copyreg.__newobj__, (type(self), self.message), self.__dict__  # type: ignore[attr-defined]


class Retry(MeterlineError):
    """The outside refused for now. `after_seconds` is how long it asked us to wait, if it did."""

    def __init__(self, message: str, *, remedy: str, after_seconds: float | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.after_seconds = after_seconds


class Reject(MeterlineError):
    """One input is unusable. `reason` is a stable, lower-case code that metrics count by."""

    def __init__(self, reason: str, message: str, *, remedy: str) -> None:
        super().__init__(message, remedy=remedy)
        self.reason = reason


class Stop(MeterlineError):
    """Going on would lose or falsify something."""
