"""`meterline reconcile` on real stages: it finds no difference, and each that is planted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.commands import reconcile
from pipeline.commands.definitions import read_definitions
from pipeline.commands.look_at_chain import Chain
from pipeline.errors import Stop
from pipeline.settings import read_settings
from schemas import topics
from schemas.discrepancy import Discrepancy
from schemas.reconciliation import Reconciliation
from streams import cut
from tests.pipeline.commands.whole_system import WholeSystem, whole_system
from tests.streams.on_kafka import WAIT_SECONDS_MAX, open_transaction, read, wait_until

_TABLES = ("events", "set_aside", "rejections", "totals")


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeSystem]:
    """A deployment that has counted, stored and billed 2,000 events; its stages have stopped."""
    with whole_system(tmp_path_factory.mktemp("counted")) as system:
        with system.run():
            system.send(2_000)
            system.settle()
        system.command(
            *(f"CREATE TABLE kept_{table} AS {table}" for table in _TABLES),
            *(f"INSERT INTO kept_{table} SELECT * FROM {table}" for table in _TABLES),
        )
        yield system


@pytest.fixture
def system(counted: WholeSystem, monkeypatch: pytest.MonkeyPatch) -> Iterator[WholeSystem]:
    """The same one for each test, which may tamper with ClickHouse and Stripe."""
    monkeypatch.setattr(reconcile, "_AGAIN_SECONDS", 0.0)
    journal = list(counted.stripe.journal)
    yield counted
    counted.stripe._account.journal[:] = journal
    counted.command(
        *(f"TRUNCATE TABLE {table}" for table in _TABLES),
        *(f"INSERT INTO {table} SELECT * FROM kept_{table}" for table in _TABLES),
    )


def run(system: WholeSystem, *options: str, **environment: str) -> tuple[int, str]:
    """Exit code and output."""
    ended = CliRunner().invoke(
        app,
        ["reconcile", "--stripe-lag", "0", *options],
        env={**system.environment, "COLUMNS": "100", **environment},
    )
    if ended.exception is not None and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    return ended.exit_code, ended.output


def checked(system: WholeSystem, *options: str) -> Reconciliation:
    """What `--json` says; the exit code says the same."""
    code, output = run(system, "--json", *options)
    document = Reconciliation.model_validate_json(output)
    assert code == (0 if document.reconciled else 1)
    return document


def links(found: Reconciliation) -> set[str]:
    return {difference.link for difference in found.differences}


def test_what_was_counted_reconciles_through_every_link(system: WholeSystem) -> None:
    found = checked(system)
    assert found.differences == ()
    assert found.not_checked == ()
    assert found.ledger is not None
    assert found.ledger.input == sum(outcome.kafka for outcome in found.ledger.outcomes) == 2_000
    assert all(outcome.kafka > 0 for outcome in found.ledger.outcomes), "every outcome occurs"
    tokens = next(row for row in found.periods if row.meter == "tokens")
    assert tokens.recomputed == tokens.clickhouse == tokens.kafka
    assert tokens.billable == tokens.frozen == tokens.delivered == tokens.stripe
    assert tokens.billable not in (None, "0")


def test_the_page_fits_100_columns_and_ends_with_the_verdict(system: WholeSystem) -> None:
    code, page = run(system)
    assert code == 0
    lines = page.splitlines()
    tables = [line for line in lines if line.startswith(" ")]
    assert tables
    assert max(map(len, tables)) <= 100
    assert "✓ Reconciled: nothing was lost, doubled or changed." in page
    assert "0 not yet taken in, 0 not yet decided, 0 not yet in ClickHouse" in page


def test_what_runs_reconciles_at_any_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "_AGAIN_SECONDS", 1.0)
    with whole_system(tmp_path) as system, system.run():
        in_flight = 0
        for seed in range(3):
            system.send(1_500, seed)
            found = checked(system)
            assert found.differences == ()
            assert found.ledger is not None
            in_flight += found.ledger.not_taken_in + found.ledger.not_decided
            in_flight += found.ledger.not_stored + found.unsent
        assert in_flight, "it was looked at while something was on its way"


def test_a_transaction_that_a_producer_leaves_open_on_usage_events_holds_up_no_check(
    system: WholeSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cut, "_DECIDED_SECONDS_MAX", 0.2)
    producer = open_transaction(system.kafka["bootstrap.servers"], topics.EVENTS.name)
    try:
        found = checked(system)
    finally:
        producer.abort_transaction(WAIT_SECONDS_MAX)
    assert found.differences == ()
    assert found.ledger is not None
    assert (found.ledger.input, found.ledger.not_taken_in) == (2_000, 0)


def test_an_event_that_clickhouse_lost(system: WholeSystem) -> None:
    ((customer, identity),) = system.query(
        "SELECT customer, id FROM events WHERE customer != 'cus_01' ORDER BY id LIMIT 1"
    )
    system.command(f"ALTER TABLE events DELETE WHERE id = '{identity}' SETTINGS mutations_sync = 1")
    found = checked(system)
    assert links(found) == {"stored", "recomputed"}
    assert {each.customer for each in found.differences} == {None, customer}
    code, page = run(system)
    assert code == 1
    assert "accepted, usage.events partition" in page
    assert "differences. docs/operating.md says where to look." in page


def test_a_position_lost_and_another_doubled_in_clickhouse(system: WholeSystem) -> None:
    ((partition, offset),) = system.query(
        "SELECT source_partition, source_offset FROM set_aside WHERE status = 'duplicate' LIMIT 1"
    )
    ((other,),) = system.query(
        f"SELECT min(source_offset) FROM events WHERE source_partition = {partition}"
    )
    system.command(
        f"INSERT INTO set_aside SELECT * REPLACE({other} AS source_offset) FROM (SELECT * FROM "
        f"set_aside WHERE source_partition = {partition} AND source_offset = {offset})"
    )
    system.command(
        f"ALTER TABLE set_aside DELETE WHERE source_partition = {partition} "
        f"AND source_offset = {offset} SETTINGS mutations_sync = 1"
    )
    (difference,) = checked(system).differences
    assert difference.key == f"stored/{partition}/duplicate"
    assert "but not the same ones" in difference.sentence


def test_a_total_that_was_changed(system: WholeSystem) -> None:
    system.command(
        "ALTER TABLE totals UPDATE value = value + 1, usage = usage + 1 "
        "WHERE customer = 'cus_02' AND meter = 'requests' SETTINGS mutations_sync = 1"
    )
    found = checked(system)
    assert {(each.link, each.customer, each.meter) for each in found.differences} == {
        ("recomputed", "cus_02", "requests"),
        ("totals", "cus_02", "requests"),
    }
    difference = found.differences[0]
    assert int(difference.found) == int(difference.expected) + 1
    assert checked(system, "--customer", "cus_03").reconciled
    assert not checked(system, "--customer", "cus_02").reconciled


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--customer", "nobody"), "no totals of customer 'nobody' in the last 40 days"),
        (("--period", "2020-01"), "no totals in 2020-01"),
        (("--customer", "nobody", "--period", "all"), "no totals of customer 'nobody', so"),
        (("--period", "0001-01", "--json"), "no totals in 0001-01"),
        (("--period", "9999-11-30"), "no totals in 9999-11-30"),
        (("--period", "2299-12"), "no totals in 2299-12"),
    ],
)
def test_that_there_is_nothing_of_what_was_named_is_no_proof(
    system: WholeSystem, options: tuple[str, ...], said: str
) -> None:
    with pytest.raises(Stop, match=said) as stop:
        run(system, *options)
    assert "Check the spelling" in stop.value.remedy


def test_a_difference_is_shown_where_there_is_nothing_of_the_named_period(
    system: WholeSystem,
) -> None:
    system.command("TRUNCATE TABLE rejections")
    found = checked(system, "--period", "2020-01")
    assert (links(found), found.periods) == ({"stored"}, ())


def test_a_total_that_clickhouse_lost(system: WholeSystem) -> None:
    system.command(
        "ALTER TABLE totals DELETE WHERE customer = 'cus_02' AND meter = 'tokens' "
        "SETTINGS mutations_sync = 1"
    )
    assert links(checked(system)) == {"recomputed", "totals"}


def test_a_rejection_that_clickhouse_lost(system: WholeSystem) -> None:
    system.command("TRUNCATE TABLE rejections")
    found = checked(system)
    assert {each.key.split("/")[0::2] == ["stored", "rejected"] for each in found.differences} == {
        True
    }


def test_a_delta_that_stripe_lost(system: WholeSystem) -> None:
    lost = system.stripe._account.journal.pop()
    (difference,) = checked(system).differences
    assert difference.link == "stripe"
    assert Decimal(difference.found) == Decimal(difference.expected) - lost.value
    assert "too little" in difference.sentence


def test_an_event_that_stripe_counts_twice(system: WholeSystem) -> None:
    event = system.stripe.journal[0]
    system.stripe._account.journal.append(replace(event, identifier="again"))
    (difference,) = checked(system).differences
    assert difference.link == "stripe"
    assert Decimal(difference.found) == Decimal(difference.expected) + event.value
    assert "too much" in difference.sentence


def test_a_meter_that_stripe_does_not_have_is_a_difference_as_soon_as_it_is_delivered_to(
    system: WholeSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stripe answers 200 to what is sent to it, and counts none of it."""
    account = system.stripe._account
    missing = account.journal[0].event_name
    monkeypatch.setattr(account, "_meters", account.event_names() - {missing})
    account.journal[:] = [event for event in account.journal if event.event_name != missing]
    found = checked(system)
    assert (links(found), found.not_checked) == ({"stripe"}, ())
    assert all(Decimal(each.found) == 0 < Decimal(each.expected) for each in found.differences)
    assert all("Stripe has no such meter: create it" in each.sentence for each in found.differences)
    assert checked(system, "--stripe-lag", "86400").reconciled


def test_a_meter_that_is_not_active_any_more_is_not_checked(
    system: WholeSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = sorted(system.stripe._account.event_names())
    monkeypatch.setattr("pipeline.commands.look_at_chain.meter_ids", lambda _: dict.fromkeys(names))
    found = checked(system)
    assert found.reconciled
    assert [gap.reason for gap in found.not_checked] == [
        f"Stripe's meter with the event name {name} is not active" for name in names
    ]


def test_what_was_delivered_a_moment_ago_may_not_be_in_stripe_s_sums_yet(
    system: WholeSystem,
) -> None:
    system.stripe._account.journal.pop()
    assert checked(system, "--stripe-lag", "86400").reconciled


def test_without_a_key_stripe_is_not_checked_and_not_zero(system: WholeSystem) -> None:
    code, output = run(system, "--json", METERLINE_STRIPE_API_KEY="")
    found = Reconciliation.model_validate_json(output)
    assert code == 0
    assert [gap.link for gap in found.not_checked] == ["stripe"]
    assert {row.stripe for row in found.periods} == {None}
    assert "Not checked" in run(system, METERLINE_STRIPE_API_KEY="")[1]


def test_the_document_is_in_utf_8_whatever_the_terminal_knows(system: WholeSystem) -> None:
    system.command("INSERT INTO totals SELECT * REPLACE ('Zoë客' AS customer) FROM totals LIMIT 1")
    ended = CliRunner(charset="latin-1").invoke(
        app, ["reconcile", "--json", "--stripe-lag", "0"], env=system.environment
    )
    found = Reconciliation.model_validate_json(ended.stdout_bytes)
    assert "Zoë客" in {each.customer for each in found.differences}


def test_more_differences_than_asked_for_are_counted_and_not_listed(system: WholeSystem) -> None:
    system.command("TRUNCATE TABLE totals")
    found = checked(system, "--limit", "3")
    assert len(found.differences) == 3
    assert found.difference_count > 50
    assert "more differences; see --limit" in run(system, "--limit", "3")[1]


def test_a_period_that_is_none_is_refused(system: WholeSystem) -> None:
    for period in ("november", "2026-13", "2026-02-30", "9999-12", "9999-12-31", "２０２６-11"):  # noqa: RUF001
        with pytest.raises(Stop, match="is no period"):
            run(system, "--period", period)


def test_an_empty_customer_is_refused_and_is_not_all_of_them(system: WholeSystem) -> None:
    with pytest.raises(Stop, match="--customer names nobody") as stop:
        run(system, "--customer", "")
    assert "leave --customer out" in stop.value.remedy


def test_a_month_and_a_day_are_periods() -> None:
    now = datetime(2026, 11, 20, tzinfo=UTC)
    december = reconcile.select("2026-12", None, now)
    assert december.has("cus", _ms(2026, 12, 1))
    assert december.has("cus", _ms(2026, 12, 31))
    assert not december.has("cus", _ms(2027, 1, 1))
    day = reconcile.select("2026-11-20", "cus", now)
    assert day.has("cus", _ms(2026, 11, 20))
    assert not day.has("cus", _ms(2026, 11, 21))
    assert not day.has("other", _ms(2026, 11, 20))
    assert reconcile.select("all", None, now).has("cus", 0)
    recent = reconcile.select("", None, now)
    assert recent.has("cus", _ms(2026, 10, 1))
    assert not recent.has("cus", _ms(2026, 9, 1))


def test_the_periods_that_are_looked_at_move_on_with_time_and_never_back(
    system: WholeSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in system.environment.items():
        monkeypatch.setenv(name, value)
    settings = read_settings()
    now = datetime.now(UTC)
    recent, later = (reconcile.select("", None, now + timedelta(days)) for days in (0, 120))
    chain = Chain(settings, read_definitions(settings.config), recent, stripe_lag_ms=0)
    with closing(chain):
        for selection in (recent, later, recent):
            look, found = reconcile._look(chain, lambda _: selection)  # noqa: B023
            assert found == []
            seen = look.seen
            sides = [seen.stored, seen.totals.usages, seen.frozen, seen.bills.windows()]
            is_first = look.selection == recent
            assert [bool(side) for side in sides] == [is_first] * 4
            assert bool(look.older_periods) != is_first
    assert look.selection == later


def _ms(year: int, month: int, day: int) -> int:
    return int(datetime(year, month, day, tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("seconds", "said"), [("0", "or equal to 1 "), ("10000000000", "or equal to 604800")]
)
def test_the_continuous_check_waits_for_a_second_at_least_and_for_a_week_at_most(
    seconds: str, said: str
) -> None:
    ended = CliRunner().invoke(app, ["reconcile", "--every", seconds], env={"COLUMNS": "200"})
    assert ended.exit_code == 2
    assert said in ended.output


def test_the_continuous_check_tells_once_and_again_when_it_is_gone(
    system: WholeSystem, tmp_path: Path
) -> None:
    """As a process of its own, which then owns the embedded engine."""
    lost = system.stripe._account.journal.pop()
    command = [sys.executable, "-m", "meterline", "reconcile", "--every", "1", "--stripe-lag", "0"]
    with (tmp_path / "log").open("w") as written:
        watch = subprocess.Popen(
            command, env={**os.environ, **system.environment}, stdout=written, stderr=written
        )
    try:
        wait_until(lambda: _told(system) == ["open"], "it is told of")
        checks = (tmp_path / "log").read_text().count("1 differences")
        wait_until(
            lambda: (tmp_path / "log").read_text().count("1 differences") > checks + 1,
            "it lasts for two more checks",
        )
        assert _told(system) == ["open"], "once while it lasts"
        system.stripe._account.journal.append(lost)
        wait_until(lambda: _told(system) == ["open", "resolved"], "it is told to be gone")
    finally:
        watch.send_signal(signal.SIGTERM)
        code = watch.wait(60)
    assert code == 0, (tmp_path / "log").read_text()


def _told(system: WholeSystem) -> list[str]:
    records = read(system.kafka["bootstrap.servers"], topics.DISCREPANCIES.name)
    told = [Discrepancy.model_validate_json(record.value or b"") for record in records]
    assert len({each.key for each in told}) <= 1
    assert all(json.loads(record.value or b"")["link"] == "stripe" for record in records)
    return [each.state for each in told]
