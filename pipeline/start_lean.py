"""Keeps out of a process what its libraries would bring along for nothing."""

from __future__ import annotations

import os
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


def start_lean() -> None:
    """Must be called before numpy and pyarrow are imported.

    numpy starts a thread for linear algebra on each core, which looks for work for a while. pyarrow
    looks for pandas when it makes its first array, and will not look again: where ClickHouse's
    engine is installed pandas is, too, and importing it takes as long as a quarter of all else that
    a stage imports. Whoever imports it later still gets it.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    absent = _Absent()
    sys.meta_path.insert(0, absent)
    try:
        import pyarrow

        pyarrow.array([0])
    finally:
        sys.meta_path.remove(absent)
