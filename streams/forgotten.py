"""Positions that Kafka has forgotten, told from those of a first start.

Kafka drops the positions of a group that has had no member for offsets.retention.minutes, all of
them at once (KIP-211), and whoever comes next looks as if nobody had ever been there. What was
written under those positions is still there. It is looked for first and positions are asked for
afterwards, as another member may just be about to write and commit for the first time.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.errors import Stop
from streams.clients import Clients, Committed, GroupConsumer, Place, count_of
from streams.stage import Stage, group_of

_LENGTHEN = (
    'as "Forgotten positions" in docs/operating.md says, and have the brokers keep positions for '
    "longer (offsets.retention.minutes)."
)


def require_first_start(stage: Stage, clients: Clients, consumer: GroupConsumer) -> None:
    """Return if a stage without memory may begin at the beginning of its input.

    Raises:
        Stop: it has been there, by the traces that it left.
    """
    trace = stage.trace
    if trace is None:
        return
    if not any(map(trace.is_left_by_step, clients.read_all(trace.topic))):
        return
    topic = stage.input_topic
    if all(known.offset is None for known in _committed(clients, consumer, topic).values()):
        raise Stop(
            f"The group {group_of(stage.name)} has no position in {topic}, but {trace.topic} has "
            "what it made of it: Kafka has forgotten the positions. From the beginning, every "
            "record that is left would be taken in once more.",
            remedy=f"Set the positions behind what was taken in, {_LENGTHEN}",
        )


class Answers:
    """Where a sink says what became of each record of `topic`: on `answers`, under the same key
    and in the same partition, and never before it has committed something of that partition.
    """

    def __init__(self, clients: Clients, topic: str, answers: str) -> None:
        self._clients = clients
        self._topic = topic
        self._answers = answers

    def require_positions(self, stage: str, consumer: GroupConsumer) -> None:
        """Return if each partition that has answers has a position, whoever owns it.

        Raises:
            Stop: one has none; with the position behind its last answer.
        """
        answered = {answer.partition for answer in self._clients.firsts(self._answers)}
        forgotten = [
            partition
            for (_, partition), known in _committed(self._clients, consumer, self._topic).items()
            if known.offset is None and partition in answered
        ]
        if not forgotten:
            return
        behind = ", ".join(
            f"{self._topic},{partition},{self._behind_answers(partition)}"
            for partition in forgotten
        )
        raise Stop(
            f"The group {group_of(stage)} has no position in partitions of {self._topic} that "
            f"{self._answers} has answers to: Kafka has forgotten the positions. From the "
            "beginning, all that was delivered would be delivered once more.",
            remedy="Set the positions behind the last answers, which are (topic, partition, "
            f"position) {behind}, {_LENGTHEN}",
        )

    def end(self, partition: int) -> int:
        """Where the next answer of a partition will lie."""
        return self._clients.end_of(self._answers, partition)

    def given(self, partition: int, begin: int) -> set[bytes]:
        """The keys of all answers of a partition from offset `begin` on."""
        answers = self._clients.read_to_end(self._answers, partition, begin)
        return {answer.key for answer in answers if answer.key is not None}

    def _behind_answers(self, partition: int) -> int:
        answered = self.given(partition, 0)
        records = self._clients.read_to_end(self._topic, partition, 0)
        return max((record.offset + 1 for record in records if record.key in answered), default=0)


def _committed(clients: Clients, consumer: GroupConsumer, topic: str) -> Mapping[Place, Committed]:
    count = count_of(topic, clients.partition_counts())
    return consumer.committed([(topic, partition) for partition in range(count)])
