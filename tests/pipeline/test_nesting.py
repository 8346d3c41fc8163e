"""How deep JSON is nested is known from its bytes, whatever stands in its texts."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from pipeline.nesting import is_nested_deeper
from tests.pipeline.usage_log import core

texts = st.text(alphabet='[]{}"\\,: a', max_size=12)
documents = st.recursive(
    st.none() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=30,
)


def levels(document: Any) -> int:
    inner = document.values() if isinstance(document, dict) else document
    if not isinstance(document, dict | list):
        return 0
    return 1 + max(map(levels, inner), default=0)


@core(300)
@given(documents, st.integers(0, 12))
def test_it_is_as_deep_as_the_document_that_is_read_from_it(document: Any, limit: int) -> None:
    for text in (json.dumps(document).encode(), msgspec.json.encode(document)):
        assert is_nested_deeper(text, limit) == (levels(document) > limit)
        assert is_nested_deeper(msgspec.Raw(text), limit) == (levels(document) > limit)


def test_brackets_side_by_side_are_no_depth() -> None:
    assert not is_nested_deeper(b"[" + b"[]," * 10_000 + b"{}]", 2)
    assert is_nested_deeper(b"[" + b"[]," * 10_000 + b"[{}]]", 2)


def test_neither_are_brackets_in_texts() -> None:
    assert not is_nested_deeper(b'["' + b"[" * 10_000 + rb"\"[[[" + b'"]', 1)


def test_but_those_in_a_text_without_an_end_are() -> None:
    for broken in (b'"' + b"[" * 100_000, b'"' * 99_999 + b"{" * 9, b'"' + rb"\[" * 100_000):
        assert is_nested_deeper(broken, 8)
