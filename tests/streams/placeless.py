"""A client that calls records safe which the broker does not have, without a place."""

from __future__ import annotations

from typing import Any

import confluent_kafka


class Placeless:
    """A message without an offset."""

    def __init__(self, message: Any) -> None:
        self._message = message

    def __getattr__(self, name: str) -> Any:
        return getattr(self._message, name)

    def offset(self) -> None:
        """Nobody knows."""


class ForgetfulProducer(confluent_kafka.Producer):
    """Loses the first `losses` records that it is given: writes them where nobody reads."""

    losses = 1

    def produce(self, topic: str, *args: Any, **kwargs: Any) -> None:
        """Write a record, or lose it."""
        if self.losses:
            self.losses -= 1
            tell = kwargs["on_delivery"]
            kwargs["on_delivery"] = lambda error, message: tell(error, Placeless(message))
            topic = f"{topic}.lost"
        super().produce(topic, *args, **kwargs)


class AmnesicProducer(ForgetfulProducer):
    """Loses all."""

    losses = 10**9
