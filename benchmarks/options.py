"""Options of the command line that several benchmarks have: what cannot be is refused at once."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile

from benchmarks.workload import Workload


def positive(text: str) -> int:
    """An integer above zero.

    Raises:
        ArgumentTypeError: it is none above zero.
        ValueError: it is no integer.
    """
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above zero")
    return number


def positive_or_none(text: str) -> int:
    """An integer, zero or above.

    Raises:
        ArgumentTypeError: it is below zero.
        ValueError: it is no integer.
    """
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is below zero")
    return number


def events_number(text: str) -> int:
    """So many events as a workload can have.

    Raises:
        ArgumentTypeError: there are none, or more.
        ValueError: it is no integer.
    """
    number = positive(text)
    return _possible(lambda: Workload(number)).events


def customers_number(text: str) -> int:
    """So many customers as a workload can have.

    Raises:
        ArgumentTypeError: there are none, or more.
        ValueError: it is no integer.
    """
    number = positive(text)
    return _possible(lambda: Workload(0, number)).customers


def duration(text: str) -> float:
    """A finite number above zero.

    Raises:
        ArgumentTypeError: it is another one.
        ValueError: it is no number.
    """
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not above zero, or not finite")
    return number


def duration_or_none(text: str) -> float:
    """A finite number, zero or above.

    Raises:
        ArgumentTypeError: it is another one.
        ValueError: it is no number.
    """
    number = float(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is below zero, or not finite")
    return number


def folder(text: str) -> Path:
    """A folder for results, made now: one that cannot be written would lose them at the end.

    Raises:
        ArgumentTypeError: nothing can be written there.
    """
    path = Path(text)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path):
            return path
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot write into {path}: {error.strerror}") from error


def file(text: str) -> Path:
    """A file for results, in such a folder.

    Raises:
        ArgumentTypeError: nothing can be written there.
    """
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a folder")
    return folder(str(path.parent)) / path.name


def _possible(make: Callable[[], Workload]) -> Workload:
    try:
        return make()
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
