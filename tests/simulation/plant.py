"""How a mistake is planted: one piece of the product becomes what it would be with the mistake."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any
from unittest import mock

Patch = AbstractContextManager[object]


@dataclass(frozen=True)
class Bug:
    """One mistake; `plant` makes it while its context lasts."""

    name: str
    plant: Callable[[], Patch]


def replaced(owner: object, name: str, wrap: Callable[[Any], Any]) -> Callable[[], Patch]:
    """`owner.name` becomes what `wrap` makes of it."""
    return lambda: mock.patch.object(owner, name, wrap(getattr(owner, name)))
