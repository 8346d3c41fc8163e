"""What a program that uses Meterline imports, beside modules of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = "from meterline import Producer, Stop, UsageEvent"


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
