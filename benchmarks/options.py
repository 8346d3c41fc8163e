"""Options of the command line that several benchmarks have: what cannot be is refused at once."""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryFile


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
