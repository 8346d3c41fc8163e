"""A name has one number, and its number leads back to it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from pipeline.numbering import Numbering, sizes


def test_names_are_numbered_in_the_order_in_which_they_came() -> None:
    names = Numbering(["x"])
    assert names.numbers(["b", "a", "b", "x"]).tolist() == [1, 2, 1, 0]
    assert len(names) == 3
    assert names[2] == "a"
    assert names.known(["a", "c"]).tolist() == [2, -1]


def test_a_column_of_numbers_becomes_a_column_of_names() -> None:
    groups = Numbering([None, ("a",), ("b", "c")])
    picked = groups.picked(np.array([2, 0, 2, 1]))
    column = picked.column(pa.list_(pa.string()))
    assert column.to_pylist() == [["b", "c"], None, ["b", "c"], ["a"]]
    assert picked[1:3].column(column.type).to_pylist() == [None, ["b", "c"]]
    lengths = picked.mapped(lambda group: len(group or ()))
    assert sizes(lengths).tolist() == [2, 0, 2, 1]


def test_no_numbers_are_an_empty_column() -> None:
    picked = Numbering(["a"]).picked(np.zeros(0, dtype=np.int64))
    assert picked.column(pa.string()).to_pylist() == []
    assert sizes(picked.mapped(len)).tolist() == []
