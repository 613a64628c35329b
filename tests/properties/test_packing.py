"""Packing: nothing lost, both budgets held, hardly any room left."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from triptych.data.plan import pack, plan_epoch
from triptych.data.spec import BatchSpec

SIZES = st.lists(st.tuples(st.integers(1, 100), st.integers(0, 12)), min_size=1, max_size=60)


@given(SIZES, st.integers(1, 40), st.integers(0, 3))
def test_every_sample_is_packed_once_within_both_budgets(
    sizes: list[tuple[int, int]], samples: int, seed: int
) -> None:
    batch = BatchSpec(tokens=128, tiles=16, samples=samples, packed=True, window=16)
    rows = plan_epoch([np.array(sizes)], [1.0], seed=seed, epoch=0, batch=batch)
    assert sorted(index for row in rows for index in row) == list(range(len(sizes)))
    for row in rows:
        assert sum(sizes[index][0] for index in row) <= 128
        assert sum(sizes[index][1] for index in row) <= 16
        assert len(row) <= samples
    assert rows == plan_epoch([np.array(sizes)], [1.0], seed=seed, epoch=0, batch=batch)


@given(SIZES)
def test_no_two_rows_could_have_been_one(sizes: list[tuple[int, int]]) -> None:
    batch = BatchSpec(tokens=128, tiles=16, packed=True)
    table = np.array(sizes)
    totals = [table[row].sum(axis=0) for row in pack(range(len(sizes)), table, batch)]
    for index, one in enumerate(totals):
        for other in totals[:index]:
            assert ((one + other) > (128, 16)).any()
