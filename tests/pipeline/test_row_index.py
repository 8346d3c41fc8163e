"""A key leads to its row, however many there are."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.row_index import RowIndex
from tests.pipeline.usage_log import core

keys = st.integers(0, 40) | st.integers(0, 40).map(lambda half: half << 32) | st.integers(0, 2**62)


@core(200)
@given(st.lists(st.sets(keys, max_size=40), max_size=6), st.sets(keys, max_size=5))
def test_any_keys_are_found_like_in_a_dictionary(batches: list[set[int]], others: set[int]) -> None:
    index = RowIndex()
    model: dict[int, int] = {}
    for batch in batches:
        new = [key for key in batch if key not in model]
        rows = [len(model) + number for number in range(len(new))]
        index.add(np.array(new, dtype=np.int64), np.array(rows, dtype=np.int64))
        model.update(zip(new, rows, strict=True))
        assert len(index) == len(model)
    wanted = [*model, *others]
    found = index.find(np.array(wanted, dtype=np.int64))
    assert found.tolist() == [model.get(key, -1) for key in wanted]
