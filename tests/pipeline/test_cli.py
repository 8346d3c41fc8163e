"""The command line: quick to list, and plain about what goes wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli import COMMANDS
from schemas.topics import FORECASTS, OUTBOX, TOTALS
from streams.topics import create_topics
from tests.streams.on_kafka import create

MAIN = "import sys; from pipeline.cli import main; main()"


def meterline(*arguments: str, program: str = MAIN, **environment: str) -> tuple[int, str, str]:
    """Runs the command line in a process of its own; exit code, output and errors."""
    ended = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "200", **environment},
    )
    return ended.returncode, ended.stdout, ended.stderr


def test_every_command_is_listed_with_its_summary() -> None:
    code, output, _ = meterline("--help")
    assert code == 0
    for name, summary in COMMANDS.items():
        assert name in output
        assert summary in output


def test_listing_the_commands_imports_neither_kafka_nor_arrow() -> None:
    program = f"import atexit, sys; atexit.register(lambda: print(*sys.modules)); {MAIN}"
    code, output, _ = meterline("--help", program=program)
    assert code == 0
    assert "pipeline.cli" in output.split()
    assert not {"confluent_kafka", "pyarrow", "pydantic", "jgo"} & set(output.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    code, output, errors = meterline(name, "--help")
    assert (code, errors) == (0, "")
    assert f"meterline {name}" in output


def test_what_meterline_raises_ends_it_with_2_and_the_remedy_but_no_traceback() -> None:
    code, output, errors = meterline("topics", METERLINE_SECURITY_PROTOCOL="[none]")
    assert (code, output) == (2, "")
    assert "METERLINE_SECURITY_PROTOCOL" in errors
    assert "\nRemedy: " in errors
    assert "Traceback" not in errors


def test_what_nobody_foresaw_ends_it_with_70_and_a_traceback_as_1_is_a_difference() -> None:
    program = f"import pipeline.commands.topics as it; it.read_settings = None; {MAIN}"
    code, output, errors = meterline("topics", program=program)
    assert (code, output) == (70, "")
    assert errors.startswith("Traceback")
    assert "TypeError: 'NoneType' object is not callable" in errors


def test_a_terminal_that_does_not_know_a_sign_is_shown_another() -> None:
    code, output, errors = meterline(
        *("doctor", "--bootstrap-servers", "127.0.0.1:1"), PYTHONIOENCODING="latin-1"
    )
    assert (code, errors.count("Traceback")) == (1, 0), "what the checks found"
    assert "? Python " in output


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
@pytest.mark.parametrize("arguments", [["--help"], ["doctor"]], ids=" ".join)
def test_output_that_finds_no_room_is_said_in_one_sentence(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", MAIN, *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={"PATH": "/usr/bin:/bin", "METERLINE_BOOTSTRAP_SERVERS": "127.0.0.1:1"},
        )
    assert ended.returncode == 75, "a try again may succeed"
    lines = [line for line in ended.stderr.splitlines() if not line.startswith("%")]
    assert len(lines) == 2
    assert "No space left on device" in lines[0]
    assert lines[1].startswith("Remedy: ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
def test_the_doctor_s_checks_end_before_it_does_also_when_its_output_finds_no_room() -> None:
    program = f"""
import sys, time
import pipeline.commands.doctor as it
from pipeline.commands.checks import good
def slow():
    time.sleep(1)
    print("the slow one has ended", file=sys.stderr)
    yield good("well")
it.all_checks = lambda *_: [it.Check("fast", lambda: iter([good("well")])), it.Check("slow", slow)]
{MAIN}
"""
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", program, "doctor"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert ended.returncode == 75
    assert ended.stderr.startswith("the slow one has ended")


@pytest.mark.parametrize("write", ["print('x')", "typer.echo('x')", "Console().print('x')"])
def test_output_that_nobody_reads_any_more_ends_it_quietly(write: str) -> None:
    program = f"""
import typer
from rich.console import Console
import pipeline.commands.topics as it
it.topics = lambda: {write}
{MAIN}
"""
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [sys.executable, "-c", program, "topics"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        env={"PATH": "/usr/bin:/bin"},
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (1, "")


@pytest.mark.parametrize("command", ["demo", "dev"])
def test_where_no_temporary_directory_can_be_had_it_says_so_at_once(command: str) -> None:
    program = f"import tempfile as it; it._candidate_tempdir_list = lambda: ['/none']; {MAIN}"
    code, output, errors = meterline(command, program=program)
    assert (code, output) == (2, "")
    said, remedy = errors.splitlines()
    assert said.startswith("There is no room for temporary files: No usable temporary directory")
    assert remedy.startswith("Remedy: Name a directory in TMPDIR")


@pytest.mark.parametrize("stage", ["clickhouse", "stripe"])
def test_a_sink_that_starts_where_no_broker_answers_ends_and_says_so(
    stage: str, tmp_path: Path
) -> None:
    code, _, errors = meterline(
        *("run", stage),
        METERLINE_BOOTSTRAP_SERVERS="127.0.0.1:1",
        METERLINE_CLICKHOUSE_URL=f"chdb://{tmp_path}/clickhouse",
        METERLINE_STRIPE_API_KEY="sk_test_none",
    )
    assert code == 75, errors
    assert "Kafka does not answer on 127.0.0.1:1" in errors
    assert "Check METERLINE_BOOTSTRAP_SERVERS" in errors


def test_intake_that_starts_before_there_are_shards_ends_and_says_so(
    tmp_path: Path, bare_kafka: str
) -> None:
    (tmp_path / "meterline.yaml").write_text("meters: []")
    code, _, errors = meterline(
        *("run", "intake", "--config", str(tmp_path / "meterline.yaml")),
        METERLINE_BOOTSTRAP_SERVERS=bare_kafka,
    )
    assert code == 2, errors
    assert "has no topic usage.metered" in errors
    assert "Create the topics with `meterline topics`" in errors
    assert "Warning" not in errors


def test_a_watch_that_starts_before_its_topics_are_there_ends_and_says_so(
    tmp_path: Path, bare_kafka: str
) -> None:
    """Faust would wait for them, and not say a word."""
    (tmp_path / "meterline.yaml").write_text("meters: []")
    for missing in (TOTALS, FORECASTS):
        code, _, errors = meterline(
            *("run", "watch", "--config", str(tmp_path / "meterline.yaml")),
            METERLINE_BOOTSTRAP_SERVERS=bare_kafka,
        )
        assert code == 2, errors
        assert f"has no topic {missing.name}" in errors
        assert "Create the topics with `meterline topics`" in errors
        create_topics({"bootstrap.servers": bare_kafka}, [missing])


def test_stripe_that_starts_before_its_answers_have_a_topic_ends_and_says_so(
    bare_kafka: str,
) -> None:
    create(bare_kafka, 1, OUTBOX.name)
    code, _, errors = meterline(
        *("run", "stripe"),
        METERLINE_BOOTSTRAP_SERVERS=bare_kafka,
        METERLINE_STRIPE_API_KEY="sk_test_none",
    )
    assert code == 2, errors
    assert "has no topic usage.deliveries" in errors


def test_an_unknown_command_is_a_usage_error_with_a_suggestion() -> None:
    code, _, errors = meterline("topcis")
    assert code == 2
    assert "topics" in errors
