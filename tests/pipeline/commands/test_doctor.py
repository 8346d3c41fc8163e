"""`meterline doctor` says of each thing whether it works, and what to do where it does not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.commands.checks import (
    Finding,
    Mark,
    clickhouse,
    disk,
    good,
    local_kafka,
    losses,
    packages,
)
from pipeline.commands.doctor import Check, run
from pipeline.errors import Stop
from pipeline.settings import Settings
from schemas.topics import DAY_MS, EVENTS, METERED, TALLY_STATE, sized
from sinks.stripe.stand_in import StripeStandIn
from streams.cluster import TopicState, topic_faults
from streams.local_kafka import LocalKafka
from streams.local_kafka_settings import SETTINGS
from streams.topics import create_topics
from tests.streams.on_kafka import publish, set_position
from tests.streams.transacting import delete_before

ROOT = Path(__file__).parents[3]
PROGRAM = "from pipeline.cli import main; main()"
DEFINITIONS = """\
meters:
  - {slug: tokens, event_type: llm, aggregation: sum, value: $.tokens, stripe: {event_name: t}}
"""


def meterline(command: str, **environment: str) -> tuple[int, str]:
    """Runs a command to its end: exit code and output."""
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, command],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        timeout=120,
    )
    assert "Traceback" not in ended.stderr
    return ended.returncode, ended.stdout


def lines(output: str, name: str) -> str:
    """The lines about one thing, with their remedies."""
    about, taken = "", False
    for line in output.splitlines():
        if line[:1] in tuple(Mark):
            taken = line[2:].startswith(name)
        about += f"{line}\n" if taken else ""
    return about


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a deployment in which everything works."""
    directory = tmp_path_factory.mktemp("doctor")
    (directory / "meterline.yaml").write_text(DEFINITIONS)
    with LocalKafka() as broker, StripeStandIn("rk_test_1") as stripe:
        create_topics({"bootstrap.servers": broker.address}, keep_for_ever=True)
        environment = {
            "METERLINE_BOOTSTRAP_SERVERS": broker.address,
            "METERLINE_CONFIG": str(directory / "meterline.yaml"),
            "METERLINE_CLICKHOUSE_URL": f"chdb://{directory}/clickhouse",
            "METERLINE_STRIPE_API_KEY": "rk_test_1",
            "METERLINE_STRIPE_API_BASE": stripe.url,
        }
        assert meterline("migrate", **environment)[0] == 0
        yield environment


def test_where_everything_works_it_says_so_and_ends_with_0(up: dict[str, str]) -> None:
    code, output = meterline("doctor", **up)
    assert code == 0, output
    assert Mark.BAD not in output
    assert "Remedy" not in output
    assert "1 broker, version 4" in lines(output, "Kafka")
    assert "topics have the right partitions, retention and clean-up" in lines(output, "Kafka")
    assert "positions are remembered" in lines(output, "Kafka")
    assert "transactions begin" in lines(output, "Kafka")
    assert "no position of intake, tally or clickhouse was deleted" in lines(output, "Kafka")
    assert "its tables are those of this version" in lines(output, "ClickHouse")
    assert "a stand-in takes the key" in lines(output, "Stripe")
    assert "1 meters, 0 plans" in lines(output, "Definitions")
    assert "Java 25" in lines(output, "Local Kafka")
    assert "GiB for" in lines(output, "Disk")
    assert output.splitlines()[-1] == "Everything that could be checked works."


@pytest.mark.parametrize(
    ("changed", "name", "said", "remedy"),
    [
        (
            {"METERLINE_LINGER_MS": "soon", "METERLINE_SECURITY_PROTOCOL": "none"},
            "Settings",
            "METERLINE_SECURITY_PROTOCOL: Input should be",
            "Correct these environment variables",
        ),
        ({"METERLINE_CONFIG": "/none.yaml"}, "Definitions", "There is no /none.yaml", "--config"),
        (
            {"METERLINE_BOOTSTRAP_SERVERS": "127.0.0.1:1"},
            "Kafka",
            "Kafka does not answer on 127.0.0.1:1",
            "Check METERLINE_BOOTSTRAP_SERVERS",
        ),
        (
            {"METERLINE_CLICKHOUSE_URL": "http://127.0.0.1:1/default"},
            "ClickHouse",
            "no ClickHouse answers there",
            "Check METERLINE_CLICKHOUSE_URL",
        ),
        (
            {"METERLINE_CLICKHOUSE_URL": "chdb:///none/at/all"},
            "ClickHouse",
            "/none/at/all holds no embedded ClickHouse yet",
            "Run `meterline migrate`",
        ),
        (
            {"METERLINE_STRIPE_API_KEY": ""},
            "Stripe",
            "key is missing",
            "Set METERLINE_STRIPE_API_KEY",
        ),
        (
            {"METERLINE_STRIPE_API_KEY": "rk_test_other"},
            "Stripe",
            "HTTP 401",
            "Set METERLINE_STRIPE_API_KEY",
        ),
        (
            {"METERLINE_STRIPE_API_BASE": "http://127.0.0.1:1"},
            "Stripe",
            "Stripe did not take",
            "check the network",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_missing_thing_is_said_with_its_remedy_and_the_rest_is_checked_all_the_same(
    changed: dict[str, str], name: str, said: str, remedy: str, up: dict[str, str]
) -> None:
    code, output = meterline("doctor", **{**up, **changed})
    assert code == 1
    about = lines(output, name)
    assert about.startswith(Mark.BAD)
    assert said in about
    assert remedy in about.partition("Remedy: ")[2]
    assert output.count(Mark.BAD) == 1
    assert lines(output, "Local Kafka").startswith(Mark.GOOD)
    assert output.splitlines()[-1] == "One thing has to be put right."


def test_a_cache_below_a_file_is_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("precious")
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    found = [finding for finding in disk(None) if finding.mark is Mark.BAD]
    assert [finding.what for finding in found] == [
        f"{file} is no directory, so {file}/meterline cannot be one"
    ]


def test_places_that_cannot_be_looked_into_are_as_if_nothing_were_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user's home is refused to all but root; a name that is too long, to everybody."""
    place = tmp_path / ("x" * 300)
    monkeypatch.setenv("XDG_CACHE_HOME", str(place))
    settings = Settings(clickhouse_url=f"chdb://{place}")
    assert [finding.mark for finding in local_kafka()] == [Mark.OPEN]
    (found,) = clickhouse(settings)
    assert "holds no embedded ClickHouse yet" in found.what
    assert {finding.mark for finding in disk(settings)} <= {Mark.GOOD, Mark.BAD}


@pytest.mark.parametrize("name", ["TMPDIR", "METERLINE_STATE_DIRECTORY"])
def test_names_and_states_that_are_to_be_kept_below_a_file_have_no_room(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_text("precious")
    monkeypatch.setenv(name, str(file / "below"))
    (found,) = (finding for finding in disk(Settings()) if finding.mark is Mark.BAD)
    assert found.what.startswith(f"{file} is no directory, so {file}/below")
    assert name in found.remedy


def test_an_address_of_clickhouse_that_is_no_url_is_said_and_not_quoted() -> None:
    settings = Settings.model_construct(clickhouse_url="http://[secret/x")
    with pytest.raises(Stop, match="METERLINE_CLICKHOUSE_URL is no valid URL") as stop:
        list(clickhouse(settings))
    assert "secret" not in str(stop.value)
    assert Mark.GOOD in {finding.mark for finding in disk(settings)}


def test_all_faults_of_the_definitions_are_shown(up: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "meterline.yaml"
    file.write_text("meters: [{slug: a}]\nplans: 1\n")
    code, output = meterline("doctor", **{**up, "METERLINE_CONFIG": str(file)})
    assert code == 1
    about = lines(output, "Definitions")
    assert f"{file}:1: meter a: event_type is missing" in about
    assert f"{file}:2: plans should be a list, not 1" in about


def test_a_cluster_without_topics_and_an_embedded_clickhouse_in_use_are_said(
    up: dict[str, str], kafka: str
) -> None:
    program = "import sys, chdb.session; s = chdb.session.Session(sys.argv[1]); print(); input()"
    path = up["METERLINE_CLICKHOUSE_URL"].removeprefix("chdb://")
    with subprocess.Popen(
        [sys.executable, "-c", program, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout
        holder.stdout.readline()
        code, output = meterline("doctor", **{**up, "METERLINE_BOOTSTRAP_SERVERS": kafka})
        holder.communicate("\n")
    assert code == 1
    assert "missing" in lines(output, "Kafka")
    assert "`meterline topics`" in lines(output, "Kafka")
    assert f"in use by another process (PID: {holder.pid})" in lines(output, "ClickHouse")


def test_a_topic_may_keep_more_than_the_catalogue_wants_but_never_less() -> None:
    def faults(partitions: int = 16, **config: str) -> list[str]:
        written = {name.replace("_", "."): value for name, value in config.items()}
        topics = {METERED.name: TopicState(partitions, written), TALLY_STATE.name: _state}
        return list(topic_faults(METERED, topics))

    _state = TopicState(16, {"retention.ms": "604800000", "cleanup.policy": "delete"})
    assert faults(cleanup_policy="delete", retention_ms="-1") == []
    assert faults(retention_ms="604800000") == [
        "retention.ms is 604800000, it should be 3456000000"
    ]
    assert faults(cleanup_policy="compact") == ["cleanup.policy is compact, it should be delete"]
    assert faults(max_message_bytes="1048588") == [
        "max.message.bytes is 1048588, it should be 16777216"
    ]
    topics = {METERED.name: TopicState(8, {}), TALLY_STATE.name: _state}
    assert list(topic_faults(TALLY_STATE, topics)) == [
        "it has 16 partitions, usage.metered has 8",
        "retention.ms is 604800000, it should be -1",
    ]
    assert list(topic_faults(EVENTS, {EVENTS.name: TopicState(3, {})})) == []
    assert list(topic_faults(EVENTS, {})) == ["it does not exist"]


@pytest.mark.parametrize(
    ("kept_days", "oldest_days", "said"),
    [
        (40, 35, None),
        (40, 36, "at most 3024000000"),
        (100, 95, None),
        (100, 96, "at most 8208000000"),
        (-1, 36_500, None),
        (40, 34, "3024000000"),
    ],
)
def test_a_topic_takes_arrivals_that_are_only_as_much_older_as_it_keeps_them_longer(
    kept_days: int, oldest_days: int, said: str | None
) -> None:
    oldest = "message.timestamp.before.max.ms"
    kept_ms, oldest_ms = max(kept_days * DAY_MS, -1), oldest_days * DAY_MS
    config = {"retention.ms": str(kept_ms), oldest: str(oldest_ms)}
    assert list(topic_faults(EVENTS, {EVENTS.name: TopicState(8, config)})) == (
        [f"{oldest} is {oldest_ms}, it should be {said}"] if said else []
    )


def test_a_broker_that_forgets_positions_before_records_is_said(
    up: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kafka's default is a week."""
    kept = "offsets.retention.minutes"
    usual = re.sub(rf"{kept}=\d+", f"{kept}=10080", SETTINGS)
    monkeypatch.setattr("streams.local_kafka.SETTINGS", usual)
    with LocalKafka() as broker:
        create_topics({"bootstrap.servers": broker.address}, keep_for_ever=True)
        code, output = meterline("doctor", **{**up, "METERLINE_BOOTSTRAP_SERVERS": broker.address})
    assert code == 1
    assert "forgotten when it was down for 10080 minutes" in lines(output, "Kafka")
    assert "offsets.retention.minutes of all brokers to at least 57600" in lines(output, "Kafka")
    assert output.count(Mark.BAD) == 1


def test_a_position_that_was_deleted_is_said_until_it_is_set_behind_the_loss(
    up: dict[str, str],
) -> None:
    address = up["METERLINE_BOOTSTRAP_SERVERS"]
    publish(address, METERED.name, [(0, b"deleted")] * 3)
    delete_before(address, METERED.name, 3)
    set_position(address, "tally", METERED.name, 1)
    (finding,) = losses({"bootstrap.servers": address})
    assert finding.mark is Mark.BAD
    assert finding.what == (
        "usage.metered partition 0: offsets from 1 to before 3 were deleted before tally had read "
        "them"
    )
    assert '"Lost positions" in docs/operating.md' in finding.remedy
    set_position(address, "tally", METERED.name, 3)
    (finding,) = losses({"bootstrap.servers": address})
    assert finding.mark is Mark.GOOD


def test_a_deployment_with_fewer_shards_is_no_fault(up: dict[str, str], bare_kafka: str) -> None:
    fewer = sized(shards=2, event_partitions=EVENTS.partitions)
    create_topics({"bootstrap.servers": bare_kafka}, fewer, keep_for_ever=True)
    code, output = meterline("doctor", **{**up, "METERLINE_BOOTSTRAP_SERVERS": bare_kafka})
    assert code == 0, output


def test_a_check_that_hangs_or_fails_is_itself_a_finding_and_hides_no_other() -> None:
    released = threading.Event()

    def hangs() -> Iterator[Finding]:
        yield good("first")
        released.wait()

    def refuses() -> Iterator[Finding]:
        yield good("first")
        raise Stop("It is closed.", remedy="Open it.")

    def fails() -> Iterator[Finding]:
        raise RuntimeError("with a secret")
        yield good("never")

    found = dict(
        run(
            [
                Check("hangs", hangs),
                Check("refuses", refuses),
                Check("fails", fails),
                Check("works", lambda: iter([good("fine")])),
            ],
            seconds_max=0.5,
        )
    )
    released.set()
    assert [finding.what for finding in found["hangs"]] == ["first", "no answer after 0.5 s"]
    assert found["refuses"][1] == Finding(Mark.BAD, "It is closed.", "Open it.")
    assert [finding.what for finding in found["fails"]] == [
        "the check itself failed with RuntimeError"
    ]
    assert found["works"] == [good("fine")]


def test_a_package_that_is_absent_or_of_another_version_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bounds may be on either side; what only other systems need is not looked for."""
    declared = [
        "numpy>=2.2,<99",
        "pyarrow<1,>=0.5",
        "nothing-of-this-name>=1",
        'none; extra == "a"',
    ]
    monkeypatch.setattr("pipeline.commands.checks.metadata.requires", lambda _: declared)
    (finding,) = packages()
    assert finding.mark is Mark.BAD
    absent = "nothing-of-this-name is missing"
    assert re.fullmatch(rf"pyarrow is [\d.]+, not <1,>=0.5; {absent}", finding.what)
