"""A `meterline.yaml` is read exactly as it is written, or refused with every fault and its line."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

import pytest

from pipeline.commands.definitions import read_definitions
from pipeline.define import parse_definitions
from pipeline.errors import Stop
from schemas.definitions import Definitions

METER = "meters: [{slug: tokens, event_type: llm, aggregation: sum, value: $.tokens}]\n"


def faults(text: str) -> list[str]:
    """What is wrong with a text, as `line: message`, in the order in which it is shown."""
    with pytest.raises(Stop) as caught:
        parse_definitions(text)
    assert caught.value.remedy
    first, *rest = caught.value.message.splitlines()
    assert first == f"meterline.yaml has {'a fault' if len(rest) == 1 else f'{len(rest)} faults'}:"
    return [line.removeprefix("meterline.yaml:") for line in rest]


def limit(written: str) -> Decimal:
    text = METER + f"plans: [{{slug: free, limits: [{{meter: tokens, limit: {written}}}]}}]"
    return parse_definitions(text).plans[0].limits[0].limit


def test_the_demos_file_is_read() -> None:
    definitions = read_definitions(Path(__file__).parents[2] / "pipeline" / "demo.yaml")
    assert [meter.slug for meter in definitions.meters][:2] == ["tokens", "requests"]
    assert definitions.plans_by_slug["pro"].limits[0].thresholds == (
        "50%",
        "80%",
        "100%",
        "2500000",
    )
    assert len(definitions.customers) == 50


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("0.1", "0.1"),
        ("12.50", "12.50"),
        ("1e3", "1000"),
        ("1.0e+3", "1000"),
        ('"0.000000001"', "0.000000001"),
        ("0.12345678901234567890e2", None),
        ("90071992547409930.000000001", "90071992547409930.000000001"),
        ("12345678901234567890123456789012345678", "12345678901234567890123456789012345678"),
        ("123456789012345678901234567890123456789", None),
        ("9" * 5_000, None),
        (".inf", None),
        (".nan", None),
        ("1_000", None),
        ("0x10", None),
        ("1:30", None),
        ("-1", None),
    ],
)
def test_a_quantity_is_what_its_text_says_or_a_fault(written: str, read: str | None) -> None:
    if read is not None:
        assert limit(written) == Decimal(read)
        return
    with pytest.raises(Stop, match=r"meterline\.yaml:2: plan free, limit tokens: limit"):
        limit(written)


def test_names_are_taken_as_they_stand_whatever_yaml_would_make_of_them() -> None:
    known = parse_definitions(
        METER + "plans: [{slug: no}]\n"
        "customers: [{id: 0123}, {id: 5.0, plan: no}, {id: true}, {id: 2026-01-01}, {id: 'null'}]"
    )
    assert list(known.customers_by_id) == ["0123", "5.0", "true", "2026-01-01", "null"]


def test_all_faults_are_shown_at_once_each_with_its_line_and_what_was_meant() -> None:
    text = """\
meters:
  - slug: tokens
    eventType: llm.request
    aggregation: avg
    value: tokens
    period: week
  - slug: requests
    event_type: llm.request
    aggregation: count
    value: $.tokens
    grace_hours: soon
    description: one
    description: two
  - {slug: tokens, event_type: llm, aggregation: sum, group_by: {model: model}}
  - 5
plans:
  - slug: free
    limits:
      - {meter: tokenz, limit: many, thresholds: [50, x%]}
      - meter: tokens
        limit: 10
        thresholds: [50, "50"]
        treshold: 1
customers:
  - {id: "", plan: free}
  -
    id: [cus_1]
  - {id: cus_1, stripe_customer_id: }
  - id: cus_1
    plan: fre
default_plan: paid
tenants: []
"""
    assert faults(text) == [
        "2: meter tokens: event_type is missing",
        "3: meter tokens: unknown key eventType, did you mean event_type?",
        "4: meter tokens: aggregation should be 'count', 'sum', 'max', 'min' or 'latest', not avg",
        "5: meter tokens: value: 'tokens' is not a path such as $.tokens, $['a b'] or $.items[0]",
        "6: meter tokens: period should be 'month' or 'day', not week",
        "10: meter requests: value: count counts events and takes no value",
        "11: meter requests: grace_hours should be a number, not soon",
        "13: description is set twice, first in line 12",
        "14: meter tokens is defined twice",
        "14: meter tokens: group_by: 'model' is not a path such as $.tokens, $['a b'] "
        "or $.items[0]",
        "14: meter tokens: value: sum needs a value, such as $.tokens",
        "15: meter 4 should be a mapping, not 5",
        "19: plan free limits the unknown meter tokenz, did you mean tokens?",
        "19: plan free, limit tokenz: limit: a quantity is a plain decimal string",
        "19: plan free, limit tokenz: thresholds.1: 'x%' is neither a percentage such as '80%' "
        "nor a quantity",
        "22: plan free, limit tokens: thresholds: a limit names each threshold once",
        "23: plan free, limit tokens: unknown key treshold, did you mean thresholds?",
        "25: customer '': id should not be empty, not ''",
        "27: customer 2: id should be a text",
        "29: customer cus_1 is defined twice",
        "30: customer cus_1 has the unknown plan fre, did you mean free?",
        "31: the default plan paid is unknown",
        "32: unknown key tenants; there are meters, plans, customers, default_plan",
    ]


def test_names_that_do_not_fit_are_found_without_any_other_fault_too() -> None:
    text = METER + "plans:\n- slug: free\n  limits:\n  - limit: 1\n    meter: tokenz\n"
    assert faults(text) == ["6: plan free limits the unknown meter tokenz, did you mean tokens?"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("meters: [1\nplans: []", "2: this is not YAML: .*did not find expected"),
        ("meters:\n\t- slug: x", "2: this is not YAML: .*token"),
        ("meters: []\nplans: 'a\0b'", "2: a character that YAML forbids"),
        ("meters: '\ud800'", "1: a character that YAML forbids"),
        ("- slug: tokens", "1: the file should be a mapping"),
        ("tokens", "1: the file should be a mapping"),
        ("# nothing but this\n", "1: the file has no content"),
        ("meters:\n", "1: meters should be a list, not nothing"),
        ("meters: []\n---\nplans: []\n", "2: a second document begins here"),
        ("meters: []\n? [a]\n: b", "2: a key should be a text"),
        ("meters: []\nplans: !!python/object:os.system []", "2: the tag .*os.system"),
        (METER + "plans: &all []\ncustomers: *all", r"3: the alias \*all: write it out"),
    ],
)
def test_what_is_no_yaml_of_ours_is_one_fault_with_its_line(text: str, fault: str) -> None:
    (only,) = faults(text)
    assert re.match(fault, only)


def test_aliases_that_stand_for_gigabytes_cost_nothing() -> None:
    laughs = "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    for name, before in zip("bcdefghijkl", "abcdefghijk", strict=True):
        laughs += f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    assert len([fault for fault in faults(laughs) if "alias" in fault]) == 11


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_a_hundred_thousand_nested_levels_are_a_fault_not_a_crash(opening: str) -> None:
    (only,) = faults(opening * 100_000)
    assert only == "1: this is nested more than 20 levels deep"


def test_an_empty_file_says_so() -> None:
    with pytest.raises(Stop, match=r"meterline\.yaml is empty") as stop:
        parse_definitions(" \n")
    (meter,) = parse_definitions(stop.value.remedy.partition(": ")[2]).meters
    assert meter.slug == "requests", "what the remedy shows can be copied"


def test_a_file_that_cannot_be_read_says_why_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Stop, match=r"There is no .*none\.yaml.*METERLINE_CONFIG") as stop:
        read_definitions(tmp_path / "none.yaml")
    (example,) = (word for word in stop.value.remedy.split() if word.endswith(".yaml"))
    assert read_definitions(Path(example)).meters, "the example is there"
    with pytest.raises(Stop, match="cannot be read: Is a directory"):
        read_definitions(tmp_path)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"meters: []\n# caf\xe9\n")
    with pytest.raises(Stop, match=r"latin\.yaml:2: this is not UTF-8"):
        read_definitions(latin)


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    file = tmp_path / "meterline.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + METER.encode())
    assert read_definitions(file).meters[0].slug == "tokens"


def test_a_fault_names_the_file_as_it_was_given(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("meters: 1")
    with pytest.raises(Stop, match=re.escape(f"{file}:1: meters should be a list, not 1")):
        read_definitions(file)


def test_what_was_read_is_the_same_as_its_json_says() -> None:
    known = parse_definitions(METER + "customers: [{id: cus_1}]")
    assert known == Definitions.model_validate_json(known.model_dump_json())
