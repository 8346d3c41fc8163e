"""The cache behind the local broker: fetched once, healed when damaged, safe for two at once.

A local web server stands for Maven Central and serves the jars of the real cache.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from jgo.maven import _core

from pipeline.errors import Stop
from streams.kafka_distribution import Distribution, prepare


class Repository(SimpleHTTPRequestHandler):
    """Serves a folder and remembers what was asked for."""

    asked: ClassVar[list[str]]

    def do_GET(self) -> None:
        if self.path.endswith(".jar"):
            self.asked.append(self.path.rsplit("/", 1)[-1])
        super().do_GET()

    def log_message(self, *_: object) -> None:
        """Keeps the tests' output readable."""


@contextmanager
def serving(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Serves the folder in place of Maven Central; yields the jars asked for, as they are."""

    class Serving(Repository):
        asked: ClassVar[list[str]] = []

    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Serving, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    fetch_from(f"http://127.0.0.1:{server.server_port}", monkeypatch)
    try:
        yield Serving.asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """An empty cache, a repository to fill it from, and the list of jars asked of that."""
    jar = prepare(print).jars[0]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with serving(repository_of(jar), monkeypatch) as asked:
        yield asked


def repository_of(jar: Path) -> Path:
    return next(parent for parent in jar.parents if parent.name == "repository")


def fetch_from(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_core.DEFAULT_REMOTE_REPOS, "central", url)


def test_two_first_starts_at_once_fetch_each_jar_once(asked: list[str]) -> None:
    said: list[str] = []
    prepared: list[Distribution] = []
    threads = [
        threading.Thread(target=lambda: prepared.append(prepare(said.append))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, second = prepared
    assert first == second
    assert sorted(asked) == sorted(jar.name for jar in first.jars)
    assert (first.formatted / "bootstrap.checkpoint").exists()
    assert first.base_classes.exists()
    assert said == ["Fetching Kafka 4.1.0 (43 MB, once)…", "Preparing Kafka 4.1.0 (once)…"]


def test_a_jar_cut_short_is_fetched_again_and_no_other(asked: list[str]) -> None:
    jar = prepare(print).jars[0]
    whole = jar.read_bytes()
    asked.clear()
    jar.write_bytes(whole[:1000])
    assert prepare(print).jars[0].read_bytes() == whole
    assert asked == [jar.name]


@pytest.mark.usefixtures("asked")
def test_a_jar_that_is_not_the_expected_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jar = prepare(print).jars[0]
    forged = tmp_path / "forged" / jar.relative_to(repository_of(jar))
    forged.parent.mkdir(parents=True)
    forged.write_bytes(b"not the jar")
    jar.unlink()
    with serving(tmp_path / "forged", monkeypatch), pytest.raises(Stop, match="SHA-256"):
        prepare(print)


@pytest.mark.usefixtures("asked")
def test_without_a_network_the_remedy_says_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    fetch_from("http://127.0.0.1:1", monkeypatch)
    with pytest.raises(Stop, match="cannot be fetched") as stop:
        prepare(print)
    assert "Maven Central" in stop.value.remedy


@pytest.mark.usefixtures("asked")
def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "meterline").write_text("a file where the folder should be")
    with pytest.raises(Stop, match="cannot be written") as stop:
        prepare(print)
    assert "XDG_CACHE_HOME" in stop.value.remedy
