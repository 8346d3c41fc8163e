"""Directories for what nobody keeps."""

from __future__ import annotations

from tempfile import TemporaryDirectory

from pipeline.errors import Stop


def temporary_directory(what: str) -> TemporaryDirectory[str]:
    """A new directory, removed on `cleanup` as far as it can be; `what` becomes part of its name.

    Raises:
        Stop: there is no place for one.
    """
    try:
        return TemporaryDirectory(prefix=f"meterline-{what}-", ignore_cleanup_errors=True)
    except OSError as error:
        raise Stop(
            f"There is no room for temporary files: {error.strerror}.",
            remedy="Name a directory in TMPDIR that has room and that this user may write to.",
        ) from error
