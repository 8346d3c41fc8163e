"""A real Apache Kafka broker (KRaft, one node) with nothing but Python installed."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from pipeline.errors import Stop
from streams.kafka_distribution import Distribution, prepare
from streams.local_kafka_settings import LOGGING, SETTINGS
from streams.temporary import temporary_directory

#: JVM options that start fast and stay small: development and tests.
QUICK_START = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
#: JVM options of a server: benchmarks.
FULL_SPEED = ("-Xms1g", "-Xmx1g", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20")

_START_SECONDS_MAX = 60.0
_STOP_SECONDS_MAX = 30.0
_ANSWER_SECONDS_MAX = 10.0

#: Becomes the JVM, and leaves a watchdog behind that kills it when our end of the pipe on its
#: standard input closes without a line: the kernel closes it however this process ends, and,
#: unlike a parent-death signal, not when merely the thread ends that started the broker.
_GUARDED = """\
exec 3<&0
{ read -r _ || kill -9 $$; } <&3 >/dev/null 2>&1 &
exec "$@" 3<&- </dev/null
"""

_REVIVALS_MAX = 5

#: Below those that a system gives to outgoing connections (Linux from 32,768, others from
#: 49,152): one of them that is free now can be some client's before the broker listens on it.
_PORTS = range(20_000, 32_768)


def free_port(but: int = 0) -> int:
    """A port of 127.0.0.1, other than `but`, that is free and that no connection takes meanwhile.

    Raises:
        Stop: there is none.
    """
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            if port != but:
                return port
    raise Stop(
        f"No port of 127.0.0.1 from {_PORTS.start} to {_PORTS.stop - 1} is free.",
        remedy="Stop what listens on them.",
    )


class LocalKafka:
    """One broker on 127.0.0.1 with its records in `directory`.

    Without a `directory` they are in a temporary one, which `stop` removes. A `port` of 0 means
    any free one, which the broker then keeps over restarts. `jvm` is `QUICK_START` or
    `FULL_SPEED`; `say` hears of what takes long. Its log is `broker.log` in the directory.
    The broker never outlives this process, not even one that is killed.

        with LocalKafka() as kafka:
            Producer({"bootstrap.servers": kafka.address})
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        port: int = 0,
        jvm: tuple[str, ...] = QUICK_START,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._temporary = None
        if directory is None:
            self._temporary = temporary_directory("kafka")
            directory = Path(self._temporary.name)
        self.directory = directory.absolute()
        self.port = port
        self._jvm = jvm
        self._say = say
        self._broker: subprocess.Popen[bytes] | None = None
        self._distribution: Distribution | None = None

    def __enter__(self) -> LocalKafka:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """What clients take as `bootstrap.servers`."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """The process id of the broker; None while it does not run."""
        return None if self._broker is None else self._broker.pid

    def start(self) -> str:
        """Starts the broker and returns its address once it can take a transaction.

        After `kill` or `stop` it comes back on the same port with the same records.

        Raises:
            Stop: it does not start; with the end of its log and what to do.
        """
        if self._broker is not None and self._broker.poll() is None:
            return self.address
        self.kill()
        _require_directory(self.directory)
        self._distribution = prepare(self._say)
        self.port = self.port or free_port()
        _require_free(self.port)
        _require_unused(self.directory / "data" / ".lock")
        try:
            self._lay_out(self._distribution)
            self._broker = self._launch(self._distribution)
            self._wait_until_ready(self._broker)
        except OSError as error:
            self.kill()
            raise self._failure(str(error)) from error
        except BaseException:
            self.kill()
            raise
        return self.address

    def revive(self) -> None:
        """Starts the broker again, with the same records, if it died; also if it dies meanwhile.

        Raises:
            Stop: like `start`, when it did not come back in a few attempts.
        """
        for attempts_left in reversed(range(_REVIVALS_MAX)):
            if self._broker is not None and self._broker.poll() is None:
                return
            self.kill()
            try:
                self.start()
            except Stop:
                if not attempts_left:
                    raise

    def wait(self) -> None:
        """Blocks for as long as the broker runs.

        Raises:
            Stop: it ended by itself; with the end of its log.
        """
        if self._broker is not None:
            code = self._broker.wait()
            raise self._failure(f"it ended by itself with {code}")

    def stop(self) -> None:
        """Stops the broker cleanly, or removes its directory if that is a temporary one."""
        if self._broker is not None and self._distribution is not None:
            # In order takes a second, and nothing is kept of a temporary one but those classes.
            if self._temporary is None or not self._distribution.classes.exists():
                self._broker.terminate()
                with suppress(subprocess.TimeoutExpired):
                    self._broker.wait(_STOP_SECONDS_MAX)
            self.kill()
            with suppress(FileNotFoundError):
                self._classes_at_exit(self._distribution).replace(self._distribution.classes)
        if self._temporary is not None:
            self._temporary.cleanup()

    def kill(self) -> None:
        """Ends the broker with SIGKILL; its directory stays as it is."""
        if self._broker is None:
            return
        self._broker.kill()
        self._broker.wait()
        self._broker.communicate(b"\n")  # The watchdog may go.
        self._broker = None

    def _lay_out(self, distribution: Distribution) -> None:
        """Writes the settings, and on the first start the formatted data folder."""
        data = self.directory / "data"
        if not data.exists():
            unfinished = self.directory / "data.unfinished"
            shutil.copytree(distribution.formatted, unfinished, dirs_exist_ok=True)
            unfinished.rename(data)
        (self.directory / "log4j2.properties").write_text(LOGGING)
        (self.directory / "server.properties").write_text(
            SETTINGS.format(port=self.port, controller_port=free_port(but=self.port))
        )

    def _launch(self, distribution: Distribution) -> subprocess.Popen[bytes]:
        if distribution.classes.exists():
            archive = [f"-XX:SharedArchiveFile={distribution.classes}"]
        else:
            archive = [
                f"-XX:SharedArchiveFile={distribution.base_classes}",
                f"-XX:ArchiveClassesAtExit={self._classes_at_exit(distribution)}",
            ]
        logging = f"-Dlog4j2.configurationFile={(self.directory / 'log4j2.properties').as_uri()}"
        java = distribution.command(*self._jvm, *archive, logging)
        with self._log.open("ab") as log:
            broker = subprocess.Popen(
                ["sh", "-c", _GUARDED, "sh", *java, "kafka.Kafka", "server.properties"],
                cwd=self.directory,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us, who then stop it in order.
            )
        # A child that we fork must not hold the watchdog's pipe open after us.
        if broker.stdin is not None:
            os.register_at_fork(after_in_child=broker.stdin.close)
        return broker

    def _classes_at_exit(self, distribution: Distribution) -> Path:
        """Where the JVM writes its archive; beside its final place, to be renamed when whole."""
        return distribution.classes.with_suffix(f".{self.port}")

    def _wait_until_ready(self, broker: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_SECONDS_MAX
        while time.monotonic() < deadline:
            if broker.poll() is not None:
                raise self._failure(f"it ended with {broker.returncode}")
            if _listens(self.port) and _is_ready(self.address):
                return
            time.sleep(0.02)
        raise self._failure(f"it was not ready after {_START_SECONDS_MAX:.0f} s")

    def _failure(self, reason: str) -> Stop:
        log = self._log.read_text(errors="replace") if self._log.exists() else ""
        tail = "\n".join(log.splitlines()[-20:])
        full = "No space left on device" in tail + reason
        return Stop(
            f"The local Kafka does not run: {reason}. The end of {self._log}:\n{tail}\n",
            remedy=f"Make room on the disk of {self.directory}."
            if full
            else f"Read {self._log}. A damaged {self.directory} can be removed if its records "
            "may go.",
        )

    @property
    def _log(self) -> Path:
        return self.directory / "broker.log"


def _require_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        is_something_else = isinstance(error, FileExistsError | NotADirectoryError)
        why = "it is no directory" if is_something_else else error.strerror
        raise Stop(
            f"The local Kafka cannot keep its records in {directory}: {why}.",
            remedy="Choose another directory, where this user may write.",
        ) from error


def _require_free(port: int) -> None:
    with socket.socket() as listener:
        # As the broker does: a port that its predecessor's connections still linger on is free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            raise Stop(
                f"The local Kafka cannot listen on 127.0.0.1:{port}: {error.strerror}.",
                remedy="Stop what listens there, or choose another port (0 means any free one).",
            ) from error


def _require_unused(lock: Path) -> None:
    """Asks for the lock that a running broker holds, before we touch its folder."""
    if lock.exists():
        with lock.open("a") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Stop(
                    f"Another broker runs in {lock.parent.parent}.",
                    remedy="Stop it, or choose another directory.",
                ) from error


def _listens(port: int) -> bool:
    with suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    return False


def _is_ready(address: str) -> bool:
    """Whether transactions and groups have their coordinators.

    Asking makes the broker create its two internal topics. A client that met it without them
    would wait for seconds before it asks again.
    """
    kafka: dict[str, str | int] = {"bootstrap.servers": address, "log_level": 0}
    # Side by side: each asks again half a second after it was told that there is none yet.
    with ThreadPoolExecutor() as asking:
        answers = [asking.submit(ask, kafka) for ask in (_claim_an_id, _ask_for_positions)]
        with suppress(KafkaException):
            for answer in answers:
                answer.result()
            return True
    return False


def _claim_an_id(kafka: Mapping[str, str | int]) -> None:
    producer = Producer({**kafka, "transactional.id": "ready"})
    # One that knows no broker yet would try again after half a second.
    producer.list_topics(timeout=_ANSWER_SECONDS_MAX)
    producer.init_transactions(_ANSWER_SECONDS_MAX)


def _ask_for_positions(kafka: Mapping[str, str | int]) -> None:
    consumer = Consumer({**kafka, "group.id": "ready"})
    try:
        consumer.committed([TopicPartition("ready", 0)], timeout=_ANSWER_SECONDS_MAX)
    finally:
        consumer.close()
