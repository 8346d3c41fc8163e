"""Functions over bytes and columns that run as machine code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """`function` as machine code, made at its first call and kept on disk where that is possible.

    Indices are not checked: `NUMBA_BOUNDSCHECK=1` does so, `NUMBA_DISABLE_JIT=1` runs it as it is.
    """
    try:
        made: Any = numba.njit(cache=True)(function)
    except RuntimeError:  # a read-only installation, and no home to keep it in
        made = numba.njit(function)
    compiled_function: Function = made
    return compiled_function


def get_ready() -> None:
    """Do now what the first call of the first function would do beforehand, a tenth of a second.

    A process that is forked later has it then.
    """
    _nothing()


@compiled
def _nothing() -> None:
    return None
