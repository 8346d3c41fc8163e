"""`meterline reconcile --customer` where Stripe knows two of our customers as one."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipeline.commands import reconcile
from pipeline.generate import DEMO_DEFINITIONS
from tests.pipeline.commands.whole_system import whole_system

ONE, OTHER = "cus_01", "cus_02"
SHARED = "cus_stripe_01"


def test_the_sum_of_both_is_compared_and_only_the_one_asked_for_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "_AGAIN_SECONDS", 0.0)
    definitions = yaml.safe_load(DEMO_DEFINITIONS.read_text())
    for customer in definitions["customers"]:
        if customer["id"] in (ONE, OTHER):
            customer["stripe_customer_id"] = SHARED
    config = tmp_path / "meterline.yaml"
    config.write_text(yaml.safe_dump(definitions))
    with whole_system(tmp_path) as system:
        system.environment["METERLINE_CONFIG"] = str(config)
        with system.run():
            system.send(500)
            system.settle()
        for customer in (ONE, OTHER):
            found = system.reconcile("--customer", customer)
            assert found.differences == ()
            billed = [row for row in found.periods if row.delivered is not None]
            assert billed
            assert all(row.stripe == row.delivered == row.clickhouse for row in billed)
        journal = system.stripe._account.journal
        # The most valuable is of a month that both have used, also where few events are of another.
        of_both = [event for event in journal if event.stripe_customer_id == SHARED]
        journal.remove(max(of_both, key=lambda event: event.value))
        for customer in (ONE, OTHER):
            (difference,) = system.reconcile("--customer", customer).differences
            assert (difference.link, difference.customer) == ("stripe", customer)
