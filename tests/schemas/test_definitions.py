"""The definitions fit together or are refused with every fault at once."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from schemas.definitions import Definitions

METER = {"slug": "tokens", "event_type": "llm", "aggregation": "sum", "value": "$.tokens"}
FREE = {"slug": "free", "limits": [{"meter": "tokens", "limit": 10}]}
PAID = {"slug": "paid"}


def definitions(**changes: Any) -> Definitions:
    typed = {
        "meters": [METER],
        "plans": [FREE, PAID],
        "customers": [{"id": "cus_1", "plan": "paid"}, {"id": "cus_2"}],
        "default_plan": "free",
    }
    return Definitions.model_validate({**typed, **changes})


def test_all_faults_are_reported_at_once() -> None:
    with pytest.raises(ValidationError) as caught:
        Definitions.model_validate(
            {
                "meters": [METER, METER],
                "plans": [FREE, FREE, {"slug": "odd", "limits": [{"meter": "nil", "limit": 1}]}],
                "customers": [{"id": "a", "plan": "gone"}, {"id": "a"}],
                "default_plan": "none",
            }
        )
    for fault in (
        "meter tokens is defined twice",
        "plan free is defined twice",
        "customer a is defined twice",
        "plan odd limits the unknown meter nil",
        "customer a has the unknown plan gone",
        "the default plan none is unknown",
    ):
        assert fault in str(caught.value)


def test_nothing_at_all_is_a_document_too() -> None:
    assert Definitions().meters == ()


def test_a_customer_has_its_own_plan_or_else_the_default_one() -> None:
    known = definitions()
    plans = {customer: known.plan_of(customer) for customer in ("cus_1", "cus_2", "other")}
    assert {customer: plan and plan.slug for customer, plan in plans.items()} == {
        "cus_1": "paid",
        "cus_2": "free",
        "other": "free",
    }


def test_without_a_default_plan_who_has_none_of_its_own_has_none() -> None:
    known = definitions(default_plan=None)
    assert known.plan_of("cus_2") is None
    assert known.plan_of("other") is None


def test_the_version_names_the_content() -> None:
    assert definitions().version == definitions().version
    assert definitions().version != definitions(default_plan="paid").version
    assert len(definitions().version) == 16


def test_the_version_survives_the_way_over_the_log() -> None:
    sent = definitions()
    assert Definitions.model_validate(sent.model_dump(mode="json")).version == sent.version
    assert Definitions.model_validate_json(sent.model_dump_json()).version == sent.version


def test_everything_is_found_by_its_name() -> None:
    known = definitions()
    assert known.meters_by_slug["tokens"].value == "$.tokens"
    assert known.plans_by_slug["free"].limits[0].meter == "tokens"
    assert known.customers_by_id["cus_1"].plan == "paid"
