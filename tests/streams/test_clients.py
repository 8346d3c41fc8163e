"""The contract of `streams.clients`: the real clients on a real broker, and the simulated ones.

Each test runs against both, word for word, so that the simulation cannot drift from the truth.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from confluent_kafka import KafkaError, KafkaException

from streams.clients import Committed, Place
from tests.streams.either_kafka import Kafka, Member, code_of, poll_until, records, visible, writer


def test_a_transaction_is_seen_when_it_is_committed_and_never_when_it_is_aborted(
    kafka_either: Kafka,
) -> None:
    clients = kafka_either.clients
    kafka_either.create(1, "seen")

    def scenario() -> None:
        ours = writer(clients, "seen")
        ours.begin()
        assert ours.write(records("seen", b"a", b"b")) == [(0, 0), (0, 1)]
        assert visible(clients, "seen") == []
        ours.commit()
        clients.clock.sleep(1)
        assert visible(clients, "seen") == [(0, b"a"), (1, b"b")]
        ours.begin()
        # The marker of the commit has taken an offset.
        assert ours.write(records("seen", b"c")) == [(0, 3)]
        ours.abort()
        clients.clock.sleep(1)
        assert visible(clients, "seen", 1) == [(1, b"b")]
        assert clients.writer("seen", "a").write(records("seen", b"d")) == [(0, 5)]
        assert visible(clients, "seen", 2) == [(5, b"d")]

    kafka_either.run(scenario)


def test_an_undecided_transaction_hides_what_others_wrote_after_it(kafka_either: Kafka) -> None:
    clients = kafka_either.clients
    kafka_either.create(1, "hidden")

    def scenario() -> None:
        slow, quick = writer(clients, "hidden", "slow"), clients.writer("hidden", "quick")
        quick.write(records("hidden", b"first"))
        slow.begin()
        slow.write(records("hidden", b"slow"))
        quick.write(records("hidden", b"last"))
        assert visible(clients, "hidden") == [(0, b"first")]
        slow.commit()
        clients.clock.sleep(1)
        assert visible(clients, "hidden") == [(0, b"first"), (1, b"slow"), (2, b"last")]

    kafka_either.run(scenario)


def test_who_claims_an_id_ends_what_its_former_holder_left_open(kafka_either: Kafka) -> None:
    clients = kafka_either.clients
    kafka_either.create(1, "claimed")

    def scenario() -> None:
        former = writer(clients, "claimed")
        former.begin()
        former.write(records("claimed", b"former"))
        latter = writer(clients, "claimed")
        with pytest.raises(KafkaException):
            former.commit()
        latter.begin()
        latter.write(records("claimed", b"latter"))
        latter.commit()
        former.abort()
        clients.clock.sleep(1)
        assert [value for _, value in visible(clients, "claimed")] == [b"latter"]

    kafka_either.run(scenario)


def test_positions_are_committed_with_their_transaction_and_with_their_note(
    kafka_either: Kafka,
) -> None:
    """Whoever asks right after a commit is told what it committed."""
    clients = kafka_either.clients
    kafka_either.create(1, "positions", "positions.out")
    place = ("positions", 0)

    def scenario() -> None:
        ours = writer(clients, "positions")
        member = Member(clients, "positions", "a", "positions")
        poll_until(clients, lambda: member.times_assigned == 1, member)
        assert member.consumer.committed([place]) == {place: Committed(None)}
        for number in range(1, 6):
            ours.begin()
            ours.write(records("positions.out", b"%d" % number))
            reached = {place: Committed(number, f"note {number}")}
            ours.send_offsets(reached, member.consumer.membership())
            ours.commit()
            assert member.consumer.committed([place]) == reached
        ours.begin()
        ours.send_offsets({place: Committed(9)}, member.consumer.membership())
        ours.abort()
        assert member.consumer.committed([place]) == {place: Committed(5, "note 5")}
        member.consumer.close()

    kafka_either.run(scenario)


def test_a_read_waits_for_its_first_record_and_not_for_all_that_it_may_have(
    kafka_either: Kafka,
) -> None:
    clients = kafka_either.clients
    kafka_either.create(1, "first")

    def scenario() -> None:
        member = Member(clients, "first", "a", "first")
        poll_until(clients, lambda: member.times_assigned == 1, member)
        clients.writer("first", "a").write(records("first", b"a", b"b", b"c"))
        began = clients.clock.monotonic()
        found: list[bytes | None] = []
        while len(found) < 3:
            found += [record.value for record in member.consumer.read(10, 3_600)]
        assert found == [b"a", b"b", b"c"]
        assert clients.clock.monotonic() < began + 1_800
        member.consumer.close()

    kafka_either.run(scenario)


def test_who_is_no_member_proves_nothing(kafka_either: Kafka) -> None:
    clients = kafka_either.clients
    kafka_either.create(1, "stranger-to", "stranger-to.out")

    def scenario() -> None:
        ours = writer(clients, "stranger-to")
        consumer = clients.consumer("stranger-to", "a")
        assert consumer.membership() is None
        ours.begin()
        ours.write(records("stranger-to.out", b"1"))
        with pytest.raises(KafkaException) as error:
            ours.send_offsets({("stranger-to", 0): Committed(1)}, consumer.membership())
        assert code_of(error) == KafkaError.UNKNOWN_MEMBER_ID
        ours.abort()
        consumer.close()

    kafka_either.run(scenario)


def test_a_membership_of_an_earlier_generation_commits_nothing(kafka_either: Kafka) -> None:
    clients = kafka_either.clients
    kafka_either.create(2, "generations", "generations.out")

    def scenario() -> None:
        ours = writer(clients, "generations")
        first = Member(clients, "generations", "a", "generations")
        poll_until(clients, lambda: len(first.share) == 2, first)
        former = first.consumer.membership()
        second = Member(clients, "generations", "b", "generations")
        poll_until(clients, lambda: len(first.share) == len(second.share) == 1, first, second)
        ours.begin()
        ours.write(records("generations.out", b"1"))
        with pytest.raises(KafkaException) as error:
            ours.send_offsets({("generations", 0): Committed(1)}, former)
        assert code_of(error) == KafkaError.ILLEGAL_GENERATION
        ours.abort()
        first.consumer.close()
        second.consumer.close()

    kafka_either.run(scenario)


def test_a_restarted_member_has_its_share_back_at_once_and_its_former_self_is_shut_out(
    kafka_either: Kafka,
) -> None:
    clients = kafka_either.clients
    kafka_either.create(2, "restarted")

    def scenario() -> None:
        former = Member(clients, "restarted", "a", "restarted")
        other = Member(clients, "restarted", "b", "restarted")
        poll_until(clients, lambda: len(former.share) == len(other.share) == 1, former, other)
        assigned = other.times_assigned
        latter = Member(clients, "restarted", "a", "restarted")
        poll_until(clients, lambda: latter.share == former.share, latter, other)
        assert other.times_assigned == assigned
        with pytest.raises(KafkaException) as error:
            poll_until(clients, lambda: False, former)
        assert code_of(error) in (KafkaError.FENCED_INSTANCE_ID, KafkaError._FATAL)
        for member in (latter, other, former):
            member.consumer.close()

    kafka_either.run(scenario)


def test_a_member_that_is_gone_is_missed_when_its_session_ends(kafka_either: Kafka) -> None:
    clients = kafka_either.clients
    kafka_either.create(2, "missed")

    def scenario() -> None:
        stays = Member(clients, "missed", "a", "missed")
        leaves = Member(clients, "missed", "b", "missed")
        poll_until(clients, lambda: len(stays.share) == len(leaves.share) == 1, stays, leaves)
        leaves.consumer.close()
        poll_until(clients, lambda: len(stays.share) == 2, stays)
        stays.consumer.close()

    kafka_either.run(scenario)


def test_partitions_of_the_same_number_go_to_the_same_member(kafka_either: Kafka) -> None:
    clients = kafka_either.clients
    kafka_either.create(3, "side", "by-side")

    def scenario() -> None:
        members = [Member(clients, "sides", name, "side", "by-side") for name in "ab"]
        poll_until(clients, lambda: all(member.share for member in members), *members)
        assert [member.share for member in members] == [
            [("by-side", 0), ("by-side", 1), ("side", 0), ("side", 1)],
            [("by-side", 2), ("side", 2)],
        ]
        for member in members:
            member.consumer.close()

    kafka_either.run(scenario)


def test_reading_begins_where_it_was_told_and_pauses_when_it_was_told(kafka_either: Kafka) -> None:
    clients = kafka_either.clients
    kafka_either.create(1, "paused-at")
    place = ("paused-at", 0)

    def scenario() -> None:
        clients.writer("paused-at", "a").write(records("paused-at", b"0", b"1", b"2"))
        member = Member(clients, "paused-at", "a", "paused-at")
        poll_until(clients, lambda: len(member.read) == 3, member)
        assert [record.offset for record in member.read] == [0, 1, 2]
        member.consumer.commit({place: Committed(3, "so far")})
        assert member.consumer.committed([place]) == {place: Committed(3, "so far")}
        member.consumer.pause([place])
        clients.writer("paused-at", "a").write(records("paused-at", b"3"))
        assert not member.consumer.read(1, 2)
        member.consumer.resume([place])
        poll_until(clients, lambda: len(member.read) == 4, member)
        member.consumer.assign({place: 2})
        poll_until(clients, lambda: len(member.read) == 6, member)
        assert [record.value for record in member.read[4:]] == [b"2", b"3"]
        member.consumer.close()

    kafka_either.run(scenario)


def test_a_partition_ends_behind_its_last_record_whatever_retention_has_taken(
    kafka_either: Kafka,
) -> None:
    clients = kafka_either.clients
    kafka_either.create(1, "ends-at")

    def scenario() -> None:
        assert clients.end_of("ends-at", 0) == 0
        clients.writer("ends-at", "a").write(records("ends-at", b"1", b"2", b"3"))
        assert clients.end_of("ends-at", 0) == 3
        kafka_either.delete_before("ends-at", 3)
        assert clients.end_of("ends-at", 0) == 3

    kafka_either.run(scenario)


def test_a_position_that_retention_has_overrun_is_an_error(kafka_either: Kafka) -> None:
    clients = kafka_either.clients
    kafka_either.create(1, "overrun-at")
    place = ("overrun-at", 0)

    def scenario() -> None:
        clients.writer("overrun-at", "a").write(records("overrun-at", b"1", b"2", b"3"))
        member = Member(clients, "overrun-at", "a", "overrun-at")
        poll_until(clients, lambda: len(member.read) == 3, member)
        member.consumer.commit({place: Committed(1)})
        kafka_either.delete_before("overrun-at", 2)
        with pytest.raises(KafkaException) as error:
            list(clients.read_to_end("overrun-at", 0, 1))
        assert code_of(error) == KafkaError._AUTO_OFFSET_RESET
        member.consumer.assign({place: 1})
        with pytest.raises(KafkaException) as error:
            poll_until(clients, lambda: False, member)
        assert code_of(error) == KafkaError._AUTO_OFFSET_RESET
        assert visible(clients, "overrun-at", 2) == [(2, b"3")]
        member.consumer.close()

    kafka_either.run(scenario)


def test_what_exists_is_known_and_what_does_not_is_neither_written_nor_read(
    kafka_either: Kafka,
) -> None:
    clients = kafka_either.clients
    kafka_either.create(3, "known")

    def scenario() -> None:
        assert clients.partition_counts()["known"] == 3
        with pytest.raises(KafkaException) as error:
            clients.writer("known", "a").write(records("unknown-topic", b"1"))
        assert code_of(error) in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC)
        for read in (clients.read_all, clients.firsts):
            with pytest.raises(KafkaException) as error:
                list(read("unknown-topic"))
            assert code_of(error) == KafkaError.UNKNOWN_TOPIC_OR_PART

    kafka_either.run(scenario)


def test_what_a_listener_raises_comes_out_of_read_as_it_was(kafka_either: Kafka) -> None:
    clients = kafka_either.clients
    kafka_either.create(1, "raising")

    class Refusing(Member):
        def _assigned(self, _: Sequence[Place]) -> None:
            raise KafkaException(KafkaError(KafkaError.NOT_COORDINATOR))

    def scenario() -> None:
        refusing = Refusing(clients, "raising", "a", "raising")
        with pytest.raises(KafkaException) as error:
            poll_until(clients, lambda: False, refusing)
        assert code_of(error) == KafkaError.NOT_COORDINATOR
        refusing.consumer.close()

    kafka_either.run(scenario)


def test_all_that_is_left_of_a_topic_is_read_and_the_first_of_each_partition(
    kafka_either: Kafka,
) -> None:
    clients = kafka_either.clients
    kafka_either.create(3, "left")

    def scenario() -> None:
        ours = writer(clients, "left")
        ours.begin()
        ours.write(records("left", b"aborted", partition=2))
        ours.abort()
        plain = clients.writer("left", "a")
        plain.write(records("left", b"deleted", b"a", b"b"))
        plain.write(records("left", b"c", partition=2))
        kafka_either.delete_before("left", 1)
        clients.clock.sleep(1)
        assert {record.value for record in clients.firsts("left")} == {b"a", b"c"}
        found = [(record.partition, record.value) for record in clients.read_all("left")]
        assert sorted(found) == [(0, b"a"), (0, b"b"), (2, b"c")]

    kafka_either.run(scenario)


def test_what_follows_a_position_is_the_next_record_or_the_end_of_what_is_decided(
    kafka_either: Kafka,
) -> None:
    clients = kafka_either.clients
    kafka_either.create(3, "following")
    places = [("following", partition) for partition in range(3)]

    def scenario() -> None:
        assert clients.next_records(dict.fromkeys(places, 0)) == dict.fromkeys(places, 0)
        ours = writer(clients, "following")
        ours.begin()
        ours.write(records("following", b"a") + records("following", b"b", partition=1))
        ours.commit()
        ours.begin()
        ours.write(records("following", b"aborted"))
        ours.abort()
        clients.clock.sleep(1)
        # Record, marker, aborted record, marker; record, marker; nothing.
        assert clients.next_records(dict.fromkeys(places, 0)) == dict.fromkeys(places, 0)
        after = dict(zip(places, (1, 1, 0), strict=True))
        assert clients.next_records(after) == dict(zip(places, (4, 2, 0), strict=True))
        ours.begin()
        ours.write(records("following", b"undecided"))
        assert clients.next_records(after)[places[0]] == 4
        ours.commit()
        clients.clock.sleep(1)
        assert clients.next_records(after)[places[0]] == 4
        kafka_either.delete_before("following", 2)
        with pytest.raises(KafkaException) as gone:
            clients.next_records({places[0]: 1})
        assert code_of(gone) == KafkaError._AUTO_OFFSET_RESET
        # The beginning is where it is now, whatever is there.
        at_the_beginning = clients.next_records(dict.fromkeys(places))
        assert at_the_beginning == dict(zip(places, (4, 0, 0), strict=True))
        kafka_either.delete_before("following", 6)
        assert clients.next_records({places[0]: None}) == {places[0]: 6}

    kafka_either.run(scenario)
