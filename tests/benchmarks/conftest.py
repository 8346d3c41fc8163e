"""What benchmarks start in tests, in this process or another, is in no hurry to become fast."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def hasty_jvm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A JVM at full speed compiles for a minute, on every core, what a test is done with sooner."""
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1")
