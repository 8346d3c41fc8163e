"""Reads `meterline.yaml`, for every command that needs to know what is counted."""

from __future__ import annotations

from pathlib import Path

from pipeline.define import parse_definitions
from pipeline.errors import Stop
from pipeline.generate import DEMO_DEFINITIONS
from schemas.definitions import Definitions


def read_definitions(path: Path) -> Definitions:
    """The definitions in a file.

    Raises:
        Stop: the file cannot be read, or with all its faults and their lines.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise Stop(
            f"There is no {path}, which says what is counted.",
            remedy=f"Write it, for example as {DEMO_DEFINITIONS} is written, or name another file "
            "with --config or METERLINE_CONFIG.",
        ) from None
    except OSError as error:
        raise Stop(
            f"{path} cannot be read: {error.strerror}.",
            remedy="Name a file that this user may read with --config or METERLINE_CONFIG.",
        ) from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise Stop(
            f"{path}:{line}: this is not UTF-8.", remedy="Save the file in UTF-8 and start again."
        ) from None
    return parse_definitions(text, str(path))
