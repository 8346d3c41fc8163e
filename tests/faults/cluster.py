"""The brokers of one cluster behind a proxy, of which one at a time may die."""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from streams.kafka_distribution import Distribution
from streams.local_kafka import LocalKafka
from tests.faults.kafka_proxy import KafkaProxy, free_ports

#: So many copies of everything.
_COPIES = (
    "default.replication.factor",
    "offsets.topic.replication.factor",
    "transaction.state.log.replication.factor",
    "share.coordinator.state.topic.replication.factor",
)
#: So many of them must have a record before it is safe.
_COPIES_MIN = (
    "min.insync.replicas",
    "transaction.state.log.min.isr",
    "share.coordinator.state.topic.min.isr",
)


class Node(LocalKafka):
    """One broker and controller with a second listener, which it advertises as the proxy's.

    It is the so manieth, from 1 on; each has one of the `controller_ports`.
    """

    def __init__(
        self, directory: Path, proxy: KafkaProxy, number: int, controller_ports: Sequence[int]
    ) -> None:
        super().__init__(directory)
        self._number = number
        self._controller_ports = controller_ports
        self._port_behind = proxy.broker_ports[number - 1]
        self._address_before = proxy.addresses[number - 1]

    def _lay_out(self, distribution: Distribution) -> None:
        super()._lay_out(distribution)
        meta = self.directory / "data" / "meta.properties"
        if f"node.id={self._number}\n" not in meta.read_text():
            name = urlsafe_b64encode(uuid4().bytes).decode().rstrip("=")
            _change(meta, {"node.id": self._number, "directory.id": name})
        controller = f"CONTROLLER://127.0.0.1:{self._controller_ports[self._number - 1]}"
        direct = f"PLAINTEXT://127.0.0.1:{self.port}"
        copies = len(self._controller_ports)
        voters = [f"{n}@127.0.0.1:{port}" for n, port in enumerate(self._controller_ports, 1)]
        _change(
            self.directory / "server.properties",
            {
                "node.id": self._number,
                "controller.quorum.voters": ",".join(voters),
                "listeners": f"{direct},PROXIED://127.0.0.1:{self._port_behind},{controller}",
                "advertised.listeners": f"{direct},PROXIED://{self._address_before}",
                "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,"
                "CONTROLLER:PLAINTEXT",
                **dict.fromkeys(_COPIES, copies),
                **dict.fromkeys(_COPIES_MIN, copies // 2 + 1),
            },
        )


class Cluster:
    """As many brokers as the proxy stands before; a context manager."""

    def __init__(self, directory: Path, proxy: KafkaProxy) -> None:
        ports = free_ports(len(proxy.broker_ports))
        self._nodes = [
            Node(directory / str(number), proxy, number, ports)
            for number in range(1, len(ports) + 1)
        ]
        self._deaths = 0

    def __enter__(self) -> Self:
        # None of them is ready before most of them are.
        with ThreadPoolExecutor(len(self._nodes)) as starting:
            list(starting.map(LocalKafka.start, self._nodes))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # In order, the last ones would wait for others to take over.
        for node in self._nodes:
            node.kill()

    @property
    def address(self) -> str:
        """Past the proxy."""
        return ",".join(node.address for node in self._nodes)

    @property
    def pids(self) -> list[int | None]:
        """The process ids of the brokers; None of one that does not run."""
        return [node.pid for node in self._nodes]

    @property
    def copies(self) -> int:
        """How many there are of each partition: one on each broker."""
        return len(self._nodes)

    def is_whole(self) -> bool:
        """Whether every copy of every partition has all of it."""
        admin = AdminClient({"bootstrap.servers": self.address, "log_level": 2})
        try:
            known = admin.list_topics(timeout=10).topics.values()
        except KafkaException:
            return False
        partitions = [each for topic in known for each in topic.partitions.values()]
        return all(len(each.isrs) == self.copies and each.leader >= 0 for each in partitions)

    def kill(self) -> None:
        """kill -9 of the next broker in turn.

        To be done while the cluster is whole: of two that die at once, Kafka may commit half of a
        transaction.
        """
        self._nodes[self._deaths % self.copies].kill()
        self._deaths += 1

    def revive(self) -> None:
        """Start again what has died."""
        for node in self._nodes:
            node.revive()


def _change(properties: Path, changes: Mapping[str, int | str]) -> None:
    """Give settings of a properties file other values, or add them."""
    text = properties.read_text()
    for name, value in changes.items():
        text = re.sub(rf"(?m)^{re.escape(name)}=.*\n", "", text) + f"{name}={value}\n"
    properties.write_text(text)
