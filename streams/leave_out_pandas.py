"""Keeps pandas out of a process that has no use for it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class _Absent(MetaPathFinder):
    """As if pandas were not installed."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        if fullname == "pandas":
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return None


def leave_out_pandas() -> None:
    """Let pyarrow make its first array: it looks for pandas then, and will not look again.

    Where ClickHouse's engine is installed pandas is, too, and importing it takes as long as a
    quarter of all else that a stage imports. Whoever imports it later still gets it.
    """
    absent = _Absent()
    sys.meta_path.insert(0, absent)
    try:
        import pyarrow

        pyarrow.array([0])
    finally:
        sys.meta_path.remove(absent)
