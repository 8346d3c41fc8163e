"""State that is restored from local disk is what Kafka has, whatever befell the files."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
import structlog
from confluent_kafka import KafkaError, KafkaException

from pipeline.record import Outgoing, Record
from streams import mirror, mirrored
from streams.confluent import ConfluentClients
from streams.mirror import Entry, Mirror
from streams.mirrored import MirroredClients
from streams.read import read_to_end, topic_id
from streams.transact import Transactor
from tests.streams.on_kafka import committed, running, wait_until
from tests.streams.summing import Numbers, Summing
from tests.streams.test_mirror import files_no_larger_than

PARTITIONS = 2


class Watched(ConfluentClients):
    """Remembers which offsets of the changelog were read from Kafka, per partition."""

    def __init__(self, address: str) -> None:
        super().__init__({"bootstrap.servers": address})
        self.read: dict[int, list[int]] = {partition: [] for partition in range(PARTITIONS)}

    def read_to_end(self, topic: str, partition: int, begin: int) -> Iterator[Record]:
        for record in super().read_to_end(topic, partition, begin):
            self.read[partition].append(record.offset)
            yield record


class Owner:
    """Runs a `Summing` stage with mirrors in `directory`, life after life."""

    def __init__(self, kafka: str, name: str, directory: Path, **how: Any) -> None:
        self._kafka = {"bootstrap.servers": kafka}
        self._address, self._name, self._how = kafka, name, how
        self.directory = directory
        self.numbers = Numbers(kafka, Summing(name), PARTITIONS)
        self.state_topic = f"{name}.state"
        #: A test may make it up.
        self.log_id = topic_id(self._kafka, self.state_topic)

    @contextmanager
    def life(self, directory: Path | None = None) -> Iterator[tuple[Watched, Summing]]:
        """One process."""
        clients, stage = Watched(self._address), Summing(self._name, **self._how)
        mirrors = MirroredClients(
            clients, directory or self.directory, self.state_topic, lambda: self.log_id
        )
        stop = threading.Event()
        with running(Transactor(stage, mirrors, instance="a", stop=stop), stop):
            yield clients, stage

    def count(self, batches: int = 3) -> None:
        """Send numbers and wait for them, batch by batch; within a life."""
        for _ in range(batches):
            self.numbers.send(2)
            wait_until(self.numbers.done, "the numbers are confirmed")

    def live(self, directory: Path | None = None, batches: int = 3) -> Watched:
        """A whole life, after which sums and mirrors are right; what it read from Kafka."""
        before = [self.on_kafka(partition) for partition in range(PARTITIONS)]
        with self.life(directory) as (clients, stage):
            self.count(batches)
        self.numbers.assert_exact()
        for partition, offsets in stage.restored[:PARTITIONS]:
            assert offsets == before[partition]
        for partition in range(PARTITIONS):
            assert self.on_disk(partition, directory) == self.on_kafka(partition)
        return clients

    def on_kafka(self, partition: int) -> list[int]:
        """Offsets of the changelog, from its anchor on."""
        records = read_to_end(self._kafka, self.state_topic, partition, self.anchor(partition))
        return [record.offset for record in records]

    def on_disk(self, partition: int, directory: Path | None = None) -> list[int]:
        """Offsets of the mirror, also while a process holds it."""
        mirror = Mirror(self.file(partition, directory), refused=_raise)
        bodies = [body for body, *_ in islice(mirror._good(), 1, None)]
        return [msgspec.msgpack.decode(body, type=Entry).offset for body in bodies]

    def anchor(self, partition: int) -> int:
        """Where a restore begins, by what is committed."""
        return int(committed(self._address, self._name, f"{self._name}.in")[partition][1] or 0)

    def file(self, partition: int, directory: Path | None = None) -> Path:
        """Where the mirror lies."""
        return (directory or self.directory) / f"{self.state_topic}-{partition}"


def _raise(error: OSError) -> None:
    raise error


def test_a_restart_reads_from_kafka_the_last_record_alone(kafka: str, tmp_path: Path) -> None:
    owner = Owner(kafka, "mirrored", tmp_path)
    owner.live()
    before = {partition: owner.on_kafka(partition) for partition in range(PARTITIONS)}
    again = owner.live()
    assert again.read == {partition: offsets[-1:] for partition, offsets in before.items()}


@pytest.mark.parametrize("spread", [False, True], ids=["at once", "spread over transactions"])
def test_a_snapshot_begins_the_file_anew(kafka: str, tmp_path: Path, spread: bool) -> None:
    name = f"mirrored-anchored-{spread}"
    owner = Owner(kafka, name, tmp_path, snapshot_every=5, spread=spread)
    owner.live(batches=8)
    assert all(owner.anchor(partition) for partition in range(PARTITIONS))
    # A sum and the additions after it, or around it.
    assert all(len(owner.on_disk(partition)) <= 6 + spread for partition in range(PARTITIONS))
    assert {path.name for path in tmp_path.iterdir()} == {
        owner.file(partition).name for partition in range(PARTITIONS)
    }
    before = {partition: owner.on_kafka(partition) for partition in range(PARTITIONS)}
    again = owner.live()
    assert again.read == {partition: offsets[-1:] for partition, offsets in before.items()}


@pytest.mark.parametrize(
    ("snapshot_every", "spread"),
    [(5, False), (5, True), (10**9, False)],
    ids=["with snapshots", "with spread snapshots", "without"],
)
def test_another_owner_s_work_is_fetched_when_the_shard_comes_back(
    kafka: str, tmp_path: Path, snapshot_every: int, spread: bool
) -> None:
    name = f"mirrored-visited-{snapshot_every}-{spread}"
    owner = Owner(kafka, name, tmp_path / "a", snapshot_every=snapshot_every, spread=spread)
    owner.live()
    before = {partition: owner.on_disk(partition) for partition in range(PARTITIONS)}
    owner.live(tmp_path / "b", batches=6)
    after = {partition: owner.on_kafka(partition) for partition in range(PARTITIONS)}
    again = owner.live()
    for partition, offsets in again.read.items():
        if owner.anchor(partition):
            assert offsets == after[partition]
        else:
            assert offsets == [o for o in after[partition] if o >= before[partition][-1]]


def flip_a_byte(path: Path, rng: Random) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= rng.randint(1, 255)
    path.write_bytes(content)


def cut(path: Path, rng: Random) -> None:
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def fill_with_zeros(path: Path, rng: Random) -> None:
    """As after a power cut."""
    content = path.read_bytes()
    left = rng.randrange(len(content))
    path.write_bytes(content[:left] + bytes(len(content) - left))


def delete(path: Path, _: Random) -> None:
    path.unlink()


DAMAGES = (flip_a_byte, cut, fill_with_zeros, delete)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_rebuilt_from_kafka(
    kafka: str, tmp_path: Path, damage: Callable[[Path, Random], None]
) -> None:
    """Time and again, at random places; the next life needs the last record only."""
    rng = Random(damage.__name__)
    owner = Owner(kafka, f"mirrored-{damage.__name__}", tmp_path)
    owner.live(batches=5)
    for _ in range(3):
        before = [owner.on_kafka(partition) for partition in range(PARTITIONS)]
        for partition in range(PARTITIONS):
            damage(owner.file(partition), rng)
        healed = owner.live(batches=1)
        for partition, offsets in healed.read.items():
            assert offsets == before[partition][-len(offsets) :]
            assert len(offsets) > 1
    before = [owner.on_kafka(partition) for partition in range(PARTITIONS)]
    assert owner.live(batches=1).read == {p: [before[p][-1]] for p in range(PARTITIONS)}


def test_an_unchecked_file_would_falsify_the_sum(
    kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted bug: entries are taken as they are."""
    owner = Owner(kafka, "mirrored-unchecked", tmp_path)
    owner.live()
    content = owner.file(0).read_bytes()
    assert content.count(b'"add": 9') == 1
    owner.file(0).write_bytes(content.replace(b'"add": 9', b'"add": 8'))

    def unchecked(self: Mirror) -> Iterator[tuple[bytes, int, int]]:
        at, content = 0, self._path.read_bytes()
        while at < len(content):
            length, checksum = mirror._PREFIX.unpack_from(content, at)
            at += mirror._PREFIX.size + length
            yield content[at - length : at], checksum, at

    with monkeypatch.context() as planted, owner.life():
        planted.setattr(Mirror, "_good", unchecked)
        owner.count(1)
    with pytest.raises(AssertionError):
        owner.numbers.assert_exact()


@pytest.mark.parametrize("other_batches", [2, 3, 5], ids=["shorter", "as long", "longer"])
@pytest.mark.parametrize("ids_differ", [True, False], ids=["another topic", "another content"])
def test_the_copy_of_another_log_is_recognised(
    kafka: str, tmp_path: Path, other_batches: int, ids_differ: bool
) -> None:
    """By the topic's id; and where that is the same, because the last record is another."""
    name = f"mirrored-{other_batches}-{ids_differ}"
    other = Owner(kafka, f"{name}-other", tmp_path / "other")
    owner = Owner(kafka, f"{name}-own", tmp_path / "own")
    if not ids_differ:
        owner.log_id = other.log_id = "same"
    other.numbers.send(1)
    other.live(batches=other_batches)
    owner.live()
    for partition in range(PARTITIONS):
        shutil.copy(other.file(partition), owner.file(partition))
    before = {partition: owner.on_kafka(partition) for partition in range(PARTITIONS)}
    again = owner.live()
    for partition, offsets in again.read.items():
        assert offsets[-len(before[partition]) :] == before[partition]


class Faults(ConfluentClients):
    """One commit fails, once `armed`: before it happened, or with only its answer lost."""

    armed = False

    def __init__(self, address: str, happens: bool, look: Callable[[], None]) -> None:
        super().__init__({"bootstrap.servers": address})
        self._happens, self._look = happens, look

    def transactional_writer(self, stage: str, instance: str) -> Any:
        writer = super().transactional_writer(stage, instance)
        commit = writer.commit

        def faulty() -> None:
            if self.armed and not self._happens:
                self.armed = False
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "planted"))
            commit()
            if self.armed:
                self.armed = False
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "planted"))

        writer.commit = faulty  # type: ignore[method-assign]
        abort = writer.abort

        def seen() -> None:
            self._look()
            abort()

        writer.abort = seen  # type: ignore[method-assign]
        return writer


def with_a_failing_commit(owner: Owner, kafka: str, happens: bool) -> list[bool]:
    """For each end of a session, whether the mirrors had nothing that was not committed."""
    right: list[bool] = []

    def look() -> None:
        for partition in range(PARTITIONS):
            there = set(owner.on_kafka(partition))
            right.append(set(owner.on_disk(partition)) <= there)

    clients = Faults(kafka, happens, look)
    mirrors = MirroredClients(clients, owner.directory, owner.state_topic, lambda: owner.log_id)
    stop = threading.Event()
    stage = Summing(owner.state_topic.removesuffix(".state"))
    with running(Transactor(stage, mirrors, instance="a", stop=stop), stop):
        owner.count()
        clients.armed = True
        owner.count()
    owner.numbers.assert_exact()
    assert not clients.armed
    return right


@pytest.mark.parametrize("happens", [False, True], ids=["aborted", "answer lost"])
def test_only_what_is_committed_gets_in(kafka: str, tmp_path: Path, happens: bool) -> None:
    owner = Owner(kafka, f"mirrored-failing-{happens}", tmp_path)
    assert all(with_a_failing_commit(owner, kafka, happens))
    for partition in range(PARTITIONS):
        assert owner.on_disk(partition) == owner.on_kafka(partition)


def test_that_check_notices_what_got_in_before_the_commit(
    kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted bug: a mirror takes what is written at once. Its sums stay right all the same,
    because the last record is compared with Kafka's."""
    write = mirrored._MirroringWriter.write

    def too_early(self: Any, outgoing: list[Outgoing]) -> Any:
        places = write(self, outgoing)
        self._take(self._written)
        self._written = []
        return places

    monkeypatch.setattr(mirrored._MirroringWriter, "write", too_early)
    owner = Owner(kafka, "mirrored-too-early", tmp_path)
    assert not all(with_a_failing_commit(owner, kafka, happens=False))


def test_without_a_directory_to_write_to_it_counts_on_and_says_so_once(
    kafka: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    owner = Owner(kafka, "mirrored-nowhere", tmp_path / "file")
    with structlog.testing.capture_logs() as logs, owner.life():
        owner.count()
    owner.numbers.assert_exact()
    (warning,) = logs
    assert "no local copy of the state" in warning["event"]
    assert "METERLINE_STATE_DIRECTORY" in warning["remedy"]


def test_on_a_full_disk_it_counts_on_and_the_next_life_fetches_what_is_missing(
    kafka: str, tmp_path: Path
) -> None:
    owner = Owner(kafka, "mirrored-full", tmp_path)
    with structlog.testing.capture_logs() as logs, owner.life():
        owner.count()
        with files_no_larger_than(owner.file(0).stat().st_size + 10):
            owner.count()
    owner.numbers.assert_exact()
    assert len(logs) == 1
    assert len(owner.on_disk(0)) == 3
    owner.live()


def test_a_file_that_fails_while_it_is_read_ends_the_session_and_not_the_process(
    kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = Owner(kafka, "mirrored-failing-disk", tmp_path)
    owner.live()
    entries = Mirror.entries
    failures = [OSError("planted")]

    def fail_once(self: Mirror) -> Iterator[Entry]:
        yield from islice(entries(self), 1)
        if failures:
            raise failures.pop()
        yield from islice(entries(self), 1, None)

    monkeypatch.setattr(Mirror, "entries", fail_once)
    with structlog.testing.capture_logs() as logs:
        owner.live()
    assert [entry["why"] for entry in logs if "planted" in entry["why"]]
    assert failures == []
