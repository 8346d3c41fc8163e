"""The benchmark of forms runs to its end, and each form says what the first one says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import forms
from benchmarks.forms import FORMS
from benchmarks.stages import events
from pipeline.decode import decode_data, decode_event
from schemas.quantity import parse
from tests.benchmarks.running import doubt, run_here
from tests.pipeline.usage_log import record


@pytest.mark.parametrize("form", FORMS, ids=[form.name for form in FORMS])
def test_each_form_says_the_same_event(form: forms.Form) -> None:
    for _, text, _ in events(50):
        first, _ = decode_event(record(text))
        value, headers = form.write(text)
        written, _ = decode_event(record(value, headers=headers))
        for name in ("id", "source", "type", "subject"):
            assert getattr(written, name) == getattr(first, name)
        data, _ = decode_data(written)
        said, _ = decode_data(first)
        assert parse(data["tokens"]) == said["tokens"] * form.scale
        assert data["model"] == said["model"]


def test_it_measures_forms_and_checks_the_totals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = doubt(monkeypatch, forms)
    monkeypatch.setattr(forms, "FORMS", FORMS[:2])
    run_here(monkeypatch, forms.main, "--events", "2000", "--folder", str(tmp_path))
    assert len(checked) == 2
    results = json.loads((tmp_path / "forms.json").read_text())
    assert [*results["forms"]] == [form.name for form in FORMS[:2]]
    assert results["forms"][FORMS[0].name]["of_first"] == 1
    assert (tmp_path / "forms.svg").read_text().lstrip().startswith("<?xml")
