"""What a program that uses Meterline imports: beside modules of its own, and with its types."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = "from meterline import Producer, Stop, UsageEvent"

TYPED = """\
from datetime import UTC, datetime
from typing import Any

from meterline import DeliveryFailed, Producer, UsageEvent

extensions: dict[str, Any] = {"traceparent": "00-1"}
headers = [("content-type", b"application/cloudevents+json")]
with Producer("localhost:9092", pack_events=500) as producer:
    at = datetime.now(UTC)
    event = UsageEvent(id="1", source="/a", type="t", subject="ann", time=at)
    producer.send(event)
    producer.send(UsageEvent(id="2", source="/a", type="t", subject="ann", time=at, **extensions))
    producer.send_raw(event.to_json(), key=b"ann", headers=headers)
    try:
        producer.flush()
    except DeliveryFailed as failure:
        print(failure.keys, failure.remedy)
reveal_type(producer)
"""


def run_beside(module: Path) -> tuple[int, str]:
    """Runs a program that has this module of its own: exit code, errors."""
    module.parent.mkdir(exist_ok=True)
    module.write_text("mine = 1")
    program = module.parents[module.name == "__init__.py"] / "program.py"
    program.write_text(PROGRAM)
    ended = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=60)
    return ended.returncode, ended.stderr


@pytest.mark.parametrize("name", ["schemas.py", "pipeline.py", "streams.py", "schemas/__init__.py"])
def test_a_module_that_hides_a_package_of_ours_is_named(name: str, tmp_path: Path) -> None:
    code, errors = run_beside(tmp_path / name)
    package = name.partition("/")[0].removesuffix(".py")
    said = f"ImportError: {tmp_path / name} hides Meterline's package {package}: rename it."
    assert (code, errors.splitlines()[-1]) == (1, said)


def test_a_module_of_another_name_changes_nothing(tmp_path: Path) -> None:
    assert run_beside(tmp_path / "models.py") == (0, "")


def test_a_program_that_uses_it_can_be_checked_strictly(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(TYPED)
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", "/dev/null", "program.py"],
        capture_output=True,
        cwd=tmp_path,
        text=True,
        timeout=120,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert 'Revealed type is "streams.producer.Producer"' in checked.stdout
