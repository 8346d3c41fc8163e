"""The contenders: Meterline, four peers written as their documentation recommends, the roofline."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

import msgspec
from rich.text import Text

from benchmarks.contender import Command, Contender, LeftOut, Place, TotalKey
from benchmarks.workload import EVENT_TYPES, Sum
from pipeline.settings import cache_directory
from schemas import topics
from schemas.frame import unseal

ROOT = Path(__file__).parents[1]
PEERS = Path(__file__).with_name("peers")

#: Each event type has a meter whose totals carry the sum and the number of events.
DEFINITIONS = {
    "meters": [
        {"slug": kind, "event_type": kind, "aggregation": "sum", "value": "$.value"}
        for kind in EVENT_TYPES
    ],
    "plans": [{"slug": "free"}],
    "default_plan": "free",
}

#: The peers, tuned for throughput, commit every second, two or three; the default is 5 ms.
METERLINE_LINGER_MS = 500
#: As many as two cores have use for, as partitions are for the others.
METERLINE_SHARDS = 4

_STREAMS_JVM = ("-Xms2g", "-Xmx2g", "-XX:+UseParallelGC")
_FLINK_JVM = ("-Xms2g", "-Xmx2g", "-XX:MaxDirectMemorySize=1g", "-XX:+UseParallelGC")
#: What Flink asks for on Java 17 (its own config.yaml has a longer list).
_FLINK_OPENS = tuple(
    f"--add-opens=java.base/{package}=ALL-UNNAMED"
    for package in ("java.lang", "java.net", "java.io", "java.nio", "java.util", "java.time")
)
STAGES = ("intake", "tally")
#: What intake and tally load and compile before their first event.
_FIRST_START = f"""
import meterline.__main__, pipeline.commands.run
from pipeline.commands.wire import StageName, wire
for stage in {STAGES!r}:
    wire(StageName(stage))
from schemas.definitions import Definitions
from streams.intake import IntakeStage
from streams.tally import TallyStage
IntakeStage(Definitions.model_validate({DEFINITIONS!r}))
TallyStage().restore(0, iter(()))
"""
_BUILD_SECONDS_MAX = 900
_REASON_LINES = 3
_STREAMS_OUTPUT = "benchmark.streams.totals"
_FLINK_OUTPUT = "benchmark.flink.totals"
_QUIX_OUTPUT = "benchmark.quix.totals"
_FAUST_EVENTS_MAX = 100_000
_POM = "{http://maven.apache.org/POM/4.0.0}"


class _Total(msgspec.Struct, gc=False):
    """What each peer writes."""

    customer: str
    type: str
    value: int
    events: int


_total = msgspec.json.Decoder(_Total)


def _json_total(record: bytes) -> Iterator[tuple[TotalKey, Sum]]:
    total = _total.decode(record)
    yield (total.customer, total.type), Sum(total.value, total.events)


def _packed_totals(record: bytes) -> Iterator[tuple[TotalKey, Sum]]:
    columns = unseal(record).parts[0]
    customers, meters, values, events = (
        columns.column(name).to_pylist() for name in ("customer", "meter", "value", "events")
    )
    for customer, meter, value, count in zip(customers, meters, values, events, strict=True):
        yield (customer, meter), Sum(int(value), count)


def _meterline() -> Callable[[Place], Sequence[Command]]:
    environment = {
        # As installed in production: all is compiled once, not at each start.
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPATH": str(ROOT),
    }
    line = [sys.executable, "-m", "meterline", "run", *STAGES, "--instance", "benchmark"]
    first = [sys.executable, "-c", _FIRST_START]
    subprocess.run(first, env=os.environ | environment, check=True, capture_output=True, cwd=ROOT)

    def start(place: Place) -> list[Command]:
        definitions = place.directory / "meterline.yaml"
        definitions.write_text(json.dumps(DEFINITIONS))
        here = environment | {
            "METERLINE_BOOTSTRAP_SERVERS": place.address,
            "METERLINE_CONFIG": str(definitions),
            "METERLINE_STATE_DIRECTORY": str(place.state),
            "METERLINE_LINGER_MS": str(METERLINE_LINGER_MS),
            "METERLINE_TALLY_LINGER_MS": str(METERLINE_LINGER_MS),
        }
        return [Command(line, here)]

    return start


def _consume() -> Callable[[Place], Sequence[Command]]:
    def start(place: Place) -> list[Command]:
        program = [sys.executable, "-m", "benchmarks.peers.consume"]
        arguments = [place.address, place.input_topic, str(place.events)]
        return [Command([*program, *arguments], {"PYTHONPATH": str(ROOT)})]

    return start


def _script(name: str, *output: str, processes: int = 1) -> Callable[[Place], Sequence[Command]]:
    """A Python peer with an environment of its own, because it needs other versions than we do."""
    uv = _tool("uv")
    script = PEERS / name
    _run([uv, "sync", "--quiet", "--script", str(script)], ROOT)
    python = _run([uv, "python", "find", "--script", str(script)], ROOT).strip()

    def start(place: Place) -> list[Command]:
        commands = []
        for number in range(processes):
            folder = place.state / str(number)
            folder.mkdir()
            arguments = [place.address, place.input_topic, *output, str(folder)]
            commands.append(Command([python, str(script), *arguments]))
        return commands

    return start


def _kafka_streams() -> Callable[[Place], Sequence[Command]]:
    java = _built("kafka_streams", _STREAMS_JVM)

    def start(place: Place) -> list[Command]:
        settings = place.directory / "streams.properties"
        settings.write_text(
            (PEERS / "kafka_streams" / "streams.properties").read_text()
            + f"bootstrap.servers={place.address}\n"
            + f"application.id=streams\nstate.dir={place.state}\n"
        )
        arguments = [str(settings), place.input_topic, _STREAMS_OUTPUT]
        return [Command([*java, "peers.UsageTotals", *arguments])]

    return start


def _flink_sql() -> Callable[[Place], Sequence[Command]]:
    java = _built("flink_sql", (*_FLINK_JVM, *_FLINK_OPENS))

    def start(place: Place) -> list[Command]:
        template = (PEERS / "flink_sql" / "config.yaml").read_text()
        settings = template.replace("${directory}", str(place.state))
        (place.directory / "config.yaml").write_text(settings)
        names = {
            "bootstrap": place.address,
            "input": place.input_topic,
            "output": _FLINK_OUTPUT,
            "name": "flink",
        }
        statements = str(PEERS / "flink_sql" / "totals.sql")
        arguments = [f"{name}={value}" for name, value in names.items()]
        return [Command([*java, "peers.RunSql", str(place.directory), statements, *arguments])]

    return start


def _pinned(name: str) -> dict[str, str]:
    """The versions that a Java peer's pom.xml names."""
    project = ElementTree.parse(PEERS / name / "pom.xml").getroot()
    given = {f"${{{one.tag.removeprefix(_POM)}}}": one.text or "" for one in project.iter()}
    versions = {}
    for dependency in project.iter(f"{_POM}dependency"):
        written = dependency.findtext(f"{_POM}version", "")
        artifact = dependency.findtext(f"{_POM}artifactId", "")
        versions[artifact] = given.get(written, written)
    return versions


def _required(name: str) -> dict[str, str]:
    """The versions that a script's own list of dependencies pins."""
    lines = (PEERS / name).read_text().partition("# /// script\n")[2].partition("# ///\n")[0]
    header = tomllib.loads("\n".join(line.removeprefix("# ") for line in lines.splitlines()))
    return dict(entry.split("==") for entry in header["dependencies"])


def _built(name: str, options: Sequence[str]) -> list[str]:
    """Builds a Java peer with Maven, once, and returns the start of its command line."""
    maven, java = _tool("mvn"), _tool("java")
    _tool("javac")
    sources = PEERS / name
    digest = hashlib.sha256()
    for file in sorted(sources.rglob("*")):
        if file.suffix in (".java", ".xml"):
            digest.update(file.read_bytes())
    target = cache_directory() / "benchmarks" / f"{name}-{digest.hexdigest()[:12]}"
    finished = target / "finished"
    if not finished.exists():
        shutil.copytree(sources, target, dirs_exist_ok=True)
        _run([maven, "--quiet", "--batch-mode", "compile", "dependency:copy-dependencies"], target)
        finished.touch()
    built = target / "target"
    return [java, *options, "-cp", f"{built / 'classes'}:{built / 'dependency'}/*"]


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise LeftOut(f"{name} is not installed")
    return found


def _run(line: Sequence[str], folder: Path) -> str:
    # The Python that somebody has chosen for Meterline would overrule the one that a peer needs.
    environment = {name: text for name, text in os.environ.items() if name != "UV_PYTHON"}
    try:
        done = subprocess.run(
            line,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_BUILD_SECONDS_MAX,
        )
    except subprocess.TimeoutExpired as error:
        raise LeftOut(f"{line[0]} did not end within {_BUILD_SECONDS_MAX} s") from error
    if done.returncode != 0:
        # The cause comes first; what Maven says last is where to read about its messages.
        plain = Text.from_ansi(done.stdout + done.stderr).plain
        said = [text for text in plain.splitlines() if text.strip()]
        cause = "\n".join(said[:_REASON_LINES])
        raise LeftOut(f"{' '.join(line[:3])} ended with {done.returncode}: {cause}")
    return done.stdout


CONSUME = Contender(
    name="consume + decode",
    about="the roofline: reads each event and decodes it with msgspec, keeps nothing",
    prepare=_consume,
    versions={name: version(name) for name in ("confluent-kafka", "msgspec")},
    settings=("benchmarks/peers/consume.py",),
)

METERLINE = Contender(
    name="Meterline",
    about="`meterline run intake tally`, a process each, which gather for "
    f"at most {METERLINE_LINGER_MS} ms before they commit; {METERLINE_SHARDS} shards; default "
    "settings otherwise; its machine code was compiled before, as it is once for an installation, "
    "in 7 to 9 CPU seconds",
    prepare=_meterline,
    versions={name: version(name) for name in ("meterline", "confluent-kafka", "numpy", "pyarrow")},
    settings=("benchmarks/contenders.py", "pipeline/settings.py"),
    output_topic=topics.TOTALS.name,
    totals=_packed_totals,
    is_changelog=topics.TALLY_STATE.name.__eq__,
)

KAFKA_STREAMS = Contender(
    name="Kafka Streams",
    about="one JVM, Processor API, exactly_once_v2, two threads, RocksDB window and key-value "
    f"store with changelogs; {' '.join(_STREAMS_JVM)}",
    prepare=_kafka_streams,
    versions=_pinned("kafka_streams"),
    settings=(
        "benchmarks/peers/kafka_streams/streams.properties",
        "benchmarks/peers/kafka_streams/src/main/java/peers/UsageTotals.java",
    ),
    output_topic=_STREAMS_OUTPUT,
    totals=_json_total,
    is_changelog=lambda topic: topic.startswith("streams-"),
)

FLINK_SQL = Contender(
    name="Flink SQL",
    about="one JVM with a cluster of two slots, ROW_NUMBER and GROUP BY with mini-batches, RocksDB "
    f"with incremental checkpoints, exactly-once upsert-kafka; {' '.join(_FLINK_JVM)}",
    prepare=_flink_sql,
    versions=_pinned("flink_sql"),
    settings=("benchmarks/peers/flink_sql/config.yaml", "benchmarks/peers/flink_sql/totals.sql"),
    output_topic=_FLINK_OUTPUT,
    totals=_json_total,
)

QUIX_STREAMS = Contender(
    name="Quix Streams",
    about="two processes, exactly-once, one stateful function, RocksDB with changelogs, identities "
    "with a TTL of 35 days",
    prepare=partial(_script, "quix_streams.py", _QUIX_OUTPUT, processes=2),
    versions=_required("quix_streams.py"),
    settings=("benchmarks/peers/quix_streams.py",),
    output_topic=_QUIX_OUTPUT,
    totals=_json_total,
    is_changelog=lambda topic: topic.startswith("changelog__"),
)

FAUST = Contender(
    name="Faust",
    about="one worker, an agent with two tables on RocksDB with changelogs, at least once; "
    "identities never expire",
    prepare=partial(_script, "faust_app.py"),
    versions=_required("faust_app.py"),
    settings=("benchmarks/peers/faust_app.py",),
    output_topic="faust-totals-changelog",
    totals=_json_total,
    is_changelog=lambda topic: topic.startswith("faust-"),
    # Its own start is a race: the worker may see a changelog that it has made without partitions.
    compacted_topics=("faust-seen-changelog",),
    events_max=_FAUST_EVENTS_MAX,
)

#: By the name that `--only` takes.
CONTENDERS = {
    "consume": CONSUME,
    "meterline": METERLINE,
    "kafka-streams": KAFKA_STREAMS,
    "flink-sql": FLINK_SQL,
    "quix-streams": QUIX_STREAMS,
    "faust": FAUST,
}
