"""`meterline rejected list` and `show`: dead letters are found and seen, mistakes said plainly."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from pipeline.commands.show_rejected import entry, table
from pipeline.record import Record
from pipeline.reject import DeadLetter
from schemas import topics
from streams.dead_letters import Place
from tests.pipeline.commands.rejections import POISON, PROGRAM, ROOT, Pipeline, rejecting


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """One for this module: its tests only look."""
    with rejecting(tmp_path_factory.mktemp("pipeline")) as pipeline:
        yield pipeline


def test_a_list_is_by_arrival_and_counts_by_reason(pipeline: Pipeline) -> None:
    ended = pipeline.command("list", "--customer", "listed")
    assert ended.returncode == 0
    head, *rows, blank, summary = ended.stdout.decode().splitlines()
    assert head.split() == ["position", "arrived", "at", "customer", "reason", "message"]
    assert [row.split()[1] for row in rows] == [f"2026-03-01T0{n}:00:00.000Z" for n in range(3)]
    assert all("listed" in row and "missing_value" in row for row in rows)
    assert (blank, summary) == ("", "3 rejections: 3 missing_value")


@pytest.mark.parametrize(
    ("filters", "hours"),
    [
        (["--since", "2026-03-01", "--until", "2026-03-02"], [0, 1, 2]),
        (["--since", "2026-03-01T01:00:00Z"], [1, 2]),
        (["--since", "2026-03-01T02:00:00.001+00:00"], []),
        (["--until", "2026-03-01T03:00:00+01:00"], [0, 1]),
        (["--until", "2026-03-01"], []),
        (["--limit", "2"], [1, 2]),
        (["--reason", "missing_value", "--reason", "invalid_value"], [0, 1, 2]),
        (["--reason", "malformed_json"], []),
    ],
)
def test_filters_choose_by_time_and_reason(
    filters: list[str], hours: list[int], pipeline: Pipeline
) -> None:
    found = pipeline.listed("--customer", "listed", *filters)
    assert [each["received_at"] for each in found] == [
        f"2026-03-01T0{hour}:00:00.000Z" for hour in hours
    ]


def test_a_limited_list_says_what_it_leaves_out(pipeline: Pipeline) -> None:
    ended = pipeline.command("list", "--customer", "listed", "--limit", "1")
    assert ended.stdout.decode().splitlines()[-1] == (
        "3 rejections: 3 missing_value (the newest 1 are shown)"
    )


def test_what_a_stranger_wrote_is_left_out_aloud(pipeline: Pipeline) -> None:
    ended = pipeline.command("list")
    assert ended.returncode == 0
    assert b"stray" not in ended.stdout
    assert b"Records left out: 1. usage.rejected-" in ended.stderr
    assert b"Remedy: Find the program that wrote it" in ended.stderr


def test_one_is_shown_in_full_and_nothing_of_it_steers_the_terminal(pipeline: Pipeline) -> None:
    events = pipeline.events()
    (hostile,) = {
        place: record for place, record in events.items() if record.headers == POISON[3].headers
    }.keys() & {each["position"] for each in pipeline.listed("--customer", "poison")[:4]}
    ended = pipeline.command("show", hostile)
    shown = ended.stdout.decode()
    assert f"Position    {hostile}\n" in shown
    assert "Customer    poison (by its key)\n" in shown
    assert "Reason      malformed_json\n" in shown
    assert "Remedy      Send one CloudEvent as a JSON object in UTF-8.\n" in shown
    assert "Header      meterline.reason: \\x1b[31mhostile\n" in shown
    assert shown.endswith('Original    9 bytes\n\n{"half": \n')
    assert "\x1b" not in shown


def test_what_is_no_text_is_shown_as_a_dump_and_a_tombstone_as_one(pipeline: Pipeline) -> None:
    events = pipeline.events()
    shown = [
        pipeline.command("show", place).stdout.decode()
        for place in (each["position"] for each in pipeline.listed("--customer", "poison"))
        if events[place].value in (POISON[0].value, None)
    ]
    assert any("00000000  ff fe 00 7b 22" in text and '...{"' in text for text in shown)
    assert any("Original    no value: a tombstone" in text for text in shown)
    assert any("Header      trace: 0xff00" in text for text in shown)


def test_an_arrival_that_no_calendar_has_is_shown_as_its_number(pipeline: Pipeline) -> None:
    (each,) = pipeline.listed("--customer", "future")
    assert (each["received_at"], each["received_at_ms"]) == (None, 2**62)
    assert b"4611686018427387904 ms" in pipeline.command("list", "--customer=future").stdout


def test_a_narrow_table_cuts_messages_and_nothing_else() -> None:
    record = Record("usage.events", 3, 1_207, 0, "Größe\x1b".encode(), b"", ())
    letter = DeadLetter(record, "missing_value", "m" * 100, "How.")
    entries = [entry(letter, Place(0, 0)), entry(letter._replace(message="short"), Place(0, 1))]
    assert list(table(entries, 87)) == [
        "position  arrived at                customer   reason         message",
        "3/1207    1970-01-01T00:00:00.000Z  Größe\\x1b  missing_value  " + "m" * 24 + "…",
        "3/1207    1970-01-01T00:00:00.000Z  Größe\\x1b  missing_value  short",
    ]
    assert [line[62:] for line in table(entries, 10)][1:] == ["m" * 19 + "…", "short"]
    assert [line[62:] for line in table(entries, None)][1:] == ["m" * 100, "short"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["replay", "--yes"], "Nothing says which rejections to replay."),
        (["replay", "0/999999", "--yes"], "There is no rejection of 0/999999"),
        (["show", "1/999999"], "There is no rejection of 1/999999"),
        (["show", "1-2"], "'1-2' is not PARTITION/OFFSET"),
        (["show", "1/\u0663"], "is not PARTITION/OFFSET"),
        (["list", "--reason", "bad"], "'bad' is none of too_large, malformed_json"),
        (["list", "--customer", ""], "'' names nobody; leave --customer out"),
        (["replay", "--customer=", "--yes"], "'' names nobody; leave --customer out"),
        (["list", "--since", "yesterday"], "'yesterday' is neither RFC 3339"),
        (["list", "--until", "2026-02-30"], "'2026-02-30' is neither RFC 3339"),
    ],
)
def test_a_mistake_is_said_plainly_and_nothing_is_sent(
    arguments: list[str], said: str, pipeline: Pipeline
) -> None:
    before = len(pipeline.events())
    ended = pipeline.command(*arguments)
    assert (ended.returncode, ended.stdout) == (2, b"")
    errors = " ".join(ended.stderr.decode().replace("│", " ").split())
    assert said in errors
    assert "Traceback" not in errors
    assert len(pipeline.events()) == before


def test_a_broker_that_is_not_there_or_has_no_topics_is_said_at_once(kafka: str) -> None:
    for address, code, said in [
        ("127.0.0.1:1", 75, "Kafka does not answer on 127.0.0.1:1"),
        (kafka, 2, f"has no topic {topics.REJECTED.name}"),
    ]:
        ended = subprocess.run(
            [sys.executable, "-c", PROGRAM, "rejected", "list", "--bootstrap-servers", address],
            capture_output=True,
            cwd=ROOT,
            text=True,
            timeout=120,
        )
        assert (ended.returncode, ended.stdout) == (code, "")
        assert said in ended.stderr
        assert "Remedy: " in ended.stderr
        assert "Traceback" not in ended.stderr
