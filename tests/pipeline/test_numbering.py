"""A name has one number, and its number leads back to it."""

from __future__ import annotations

from pipeline.numbering import Numbering


def test_names_are_numbered_in_the_order_in_which_they_came() -> None:
    names = Numbering(["x"])
    assert names.numbers(["b", "a", "b", "x"]).tolist() == [1, 2, 1, 0]
    assert len(names) == 3
    assert names[2] == "a"
