"""A batch is its packs, one after the other, with codes that hold over all of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batch import Batch
from pipeline.pack import Pack
from tests.pipeline.usage_log import core, event, records, take_in

rows = st.tuples(
    st.sampled_from(["cus_1", "cus_2", "cus_3"]),
    st.sampled_from(["llm", "other"]),
    st.sampled_from(["a", "b", "", None]),
    st.integers(-5, 5) | st.integers(10**20, 10**21),
)


def pack_of(values: list[bytes]) -> Pack:
    ((_, pack),) = take_in(records(values), shards=1)[0]
    return pack


@core(40)
@given(st.lists(st.lists(rows, min_size=1, max_size=6), min_size=1, max_size=4))
def test_several_packs_read_like_one(parts: list[list[tuple[str, str, str | None, int]]]) -> None:
    events = [
        [
            event(subject=customer, type=kind, data={"model": model, "n": number})
            for customer, kind, model, number in part
        ]
        for part in parts
    ]
    batch = Batch([pack_of(part) for part in events])
    flat = [row for part in parts for row in part]
    customers = batch.customer_names.to_pylist()
    assert [customers[code] for code in batch.customers] == [customer for customer, *_ in flat]
    assert len(set(customers)) == len(customers)
    codes, names = batch.codes("dimension:$.model")
    assert [names[code] for code in codes] == [
        (model or "") if kind == "llm" else "" for _, kind, model, _ in flat
    ]
    assert batch.of_type("llm").tolist() == [kind == "llm" for _, kind, *_ in flat]
    assert not batch.of_type("unheard of").any()
    counted = [row for row, (_, kind, _, _) in enumerate(flat) if kind == "llm"]
    assert batch.quantities("$.n").take(np.array(counted, dtype=np.int64)).nanos() == [
        flat[row][3] * 10**9 for row in counted
    ]
    originals = [value for part in events for value in part]
    assert [batch.original(row) for row in range(len(flat))] == originals
    with pytest.raises(IndexError):
        batch.original(len(flat))
