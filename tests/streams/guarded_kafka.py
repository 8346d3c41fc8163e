"""A broker that asks who somebody is, and lets them do what they were allowed and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from streams.local_kafka import LocalKafka, free_port
from streams.local_kafka_settings import SETTINGS
from tests.streams.on_kafka import WAIT_SECONDS_MAX, wait_until

#: Who comes without a password may do everything; of a setting that is there twice the last holds.
GUARD = """\
listeners=PLAINTEXT://127.0.0.1:{{port}},SASL_PLAINTEXT://127.0.0.1:{guarded},\
CONTROLLER://127.0.0.1:{{controller_port}}
advertised.listeners=PLAINTEXT://127.0.0.1:{{port}},SASL_PLAINTEXT://127.0.0.1:{guarded}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,\
CONTROLLER:PLAINTEXT
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_plaintext.plain.sasl.jaas.config=\
org.apache.kafka.common.security.plain.PlainLoginModule required \
user_reader="secret" user_writer="secret" user_nobody="secret";
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
"""


class GuardedKafka:
    """`address` is for those who may do everything."""

    def __init__(self, address: str, guarded: str) -> None:
        self.address = address
        self._guarded = guarded

    def login(self, user: str, password: str = "secret") -> dict[str, str]:
        """A client's configuration for a user: reader, writer or nobody."""
        return {
            "bootstrap.servers": self._guarded,
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "PLAIN",
            "sasl.username": user,
            "sasl.password": password,
        }

    def allow(self, user: str, *rights: tuple[str, str, str]) -> None:
        """Grant rights, such as ("topic", "usage.events", "read"), on what so begins."""
        admin = AdminClient({"bootstrap.servers": self.address})
        wanted = [
            AclBinding(
                ResourceType[kind.upper()],
                name,
                ResourcePatternType.PREFIXED,
                f"User:{user}",
                "*",
                AclOperation[operation.upper()],
                AclPermissionType.ALLOW,
            )
            for kind, name, operation in rights
        ]
        for created in admin.create_acls(wanted).values():
            created.result(WAIT_SECONDS_MAX)
        everything = AclBindingFilter(
            ResourceType.ANY,
            None,  # type: ignore[arg-type]
            ResourcePatternType.ANY,
            f"User:{user}",
            None,  # type: ignore[arg-type]
            AclOperation.ANY,
            AclPermissionType.ANY,
        )
        # The controller says yes before the broker has heard of it.
        wait_until(
            lambda: {*wanted} <= {*admin.describe_acls(everything).result(WAIT_SECONDS_MAX)},
            "the broker knows the rights",
        )


@contextmanager
def guarded_kafka() -> Iterator[GuardedKafka]:
    """Runs one."""
    port = free_port()
    guarded = f"127.0.0.1:{port}"
    settings = SETTINGS + GUARD.format(guarded=port)
    with ExitStack() as running:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("streams.local_kafka.SETTINGS", settings)
            broker = running.enter_context(LocalKafka())
        yield GuardedKafka(broker.address, guarded)
