"""Columns of quantities are exact at any size, and written as single quantities are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.exact import SAFE, ExactColumn, exact, from_columns, plain_texts, times, to_columns
from schemas.quantity import NANOS, plain
from tests.pipeline.usage_log import core

numbers = (
    st.integers(-3 * NANOS, 3 * NANOS)
    | st.integers(-9, 9).map(lambda whole: whole * NANOS)
    | st.sampled_from([SAFE - 1, SAFE, -SAFE, 1 - SAFE, 2**63, -(2**63), 10**29, -(10**47) - 1])
)


@core(200)
@given(st.lists(numbers))
def test_quantities_are_written_like_single_ones(values: list[int]) -> None:
    texts = plain_texts(exact(values))
    texts.validate(full=True)
    assert texts.to_pylist() == [plain(value) for value in values]


@core(200)
@given(st.lists(numbers))
def test_quantities_come_back_from_their_columns(values: list[int]) -> None:
    assert from_columns(*to_columns(exact(values))).tolist() == values


@core(100)
@given(st.lists(numbers, min_size=1), st.sampled_from([1, 10, NANOS]))
def test_what_fits_in_64_bits_stays_there_and_what_does_not_is_still_exact(
    values: list[int], factor: int
) -> None:
    found = times(exact(values), factor)
    assert found.tolist() == [value * factor for value in values]
    # Two such columns can be added without a look.
    assert (found + found).tolist() == [2 * value * factor for value in values]


@pytest.mark.parametrize("most", [2**63 - 1, -(2**63)])
def test_any_64_bits_can_be_scaled(most: int) -> None:
    assert times(np.array([most, 1]), NANOS).tolist() == [most * NANOS, NANOS]
    assert times(np.array([most]), 1).tolist() == [most]


@core(100)
@given(st.lists(st.dictionaries(st.integers(0, 9), numbers, min_size=1), max_size=6))
def test_a_column_holds_what_was_written_last(writes: list[dict[int, int]]) -> None:
    column = ExactColumn()
    column.reserve(4)
    column.reserve(10)
    model = dict.fromkeys(range(10), 0)
    for written in writes:
        model |= written
        column.write(np.array(list(written)), exact(list(written.values())))
        for rows in (list(written), list(reversed(range(10)))):
            assert column.read(np.array(rows)).tolist() == [model[row] for row in rows]
