"""A text has one number, whatever stands in it, and its number leads back to it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipeline.text_numbering import TextNumbering
from tests.pipeline.usage_log import core

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ["", "\0", "\0\0", "a", "a\0", "cus_1", "cus_10", "x" * 300]
)


@core(200)
@given(st.lists(st.lists(texts, max_size=40), max_size=6), st.lists(texts, max_size=5))
def test_any_texts_are_numbered_like_in_a_dictionary(
    batches: list[list[str]], others: list[str]
) -> None:
    numbering = TextNumbering()
    model: dict[str, int] = {}
    for batch in batches:
        array = pa.array(["before", *batch], pa.string()).slice(1)
        assert numbering.known(array).tolist() == [model.get(text, -1) for text in batch]
        expected = [model.setdefault(text, len(model)) for text in batch]
        assert numbering.numbers(array).tolist() == expected
        assert len(numbering) == len(model)
    column = numbering.column(np.array([*model.values(), *model.values()], dtype=np.int64))
    column.validate(full=True)
    assert column.to_pylist() == [*model, *model]
    sizes = numbering.sizes(np.array([*model.values()], dtype=np.int64))
    assert sizes.tolist() == [len(text.encode()) for text in model]
    assert numbering.known(pa.array(others, pa.string())).tolist() == [
        model.get(text, -1) for text in others
    ]


def test_a_hundred_thousand_texts_stay_apart() -> None:
    numbering = TextNumbering()
    names = [f"cus_{number:x}" for number in range(100_000)]
    for begin in range(0, len(names), 7_000):
        numbering.numbers(pa.array(names[begin : begin + 7_000]))
    assert numbering.numbers(pa.array(names)).tolist() == list(range(len(names)))
    assert numbering.column(np.array([99_999])).to_pylist() == names[-1:]
