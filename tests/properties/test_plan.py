"""Batch planning: every sample the right number of times, both budgets kept, nothing else."""

from collections import Counter
from math import floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.data.plan import SampleSize, draw_epoch, plan_epoch, plan_once
from triptych.data.spec import BatchSpec
from triptych.errors import DataError, RecipeError

BUDGET = BatchSpec(tokens=100, tiles=9, window=16)

sample = st.builds(SampleSize, st.integers(1, 100), st.integers(0, 9))
sources = st.lists(st.lists(sample, min_size=1, max_size=40), min_size=1, max_size=3)
batches = st.builds(
    BatchSpec,
    tokens=st.integers(100, 400),
    tiles=st.integers(9, 40),
    samples=st.none() | st.integers(1, 8),
    window=st.integers(1, 64),
)
seeds = st.integers(0, 2**31)


def flat(sizes: list[list[SampleSize]]) -> list[SampleSize]:
    return [size for source in sizes for size in source]


def assert_within(plan: list[list[int]], sizes: list[SampleSize], batch: BatchSpec) -> None:
    for micro in plan:
        assert micro
        assert len(micro) * max(sizes[k].tokens for k in micro) <= batch.tokens
        assert sum(sizes[k].tiles for k in micro) <= batch.tiles
        assert batch.samples is None or len(micro) <= batch.samples


@given(sources, batches, seeds, st.integers(0, 3))
def test_with_weight_one_every_sample_comes_once_within_both_budgets(
    sizes: list[list[SampleSize]], batch: BatchSpec, seed: int, epoch: int
) -> None:
    plan = plan_epoch(sizes, [1.0] * len(sizes), seed=seed, epoch=epoch, batch=batch)
    assert sorted(k for micro in plan for k in micro) == list(range(len(flat(sizes))))
    assert_within(plan, flat(sizes), batch)


@given(sources, batches)
def test_evaluation_sees_every_sample_once_in_an_order_that_never_changes(
    sizes: list[list[SampleSize]], batch: BatchSpec
) -> None:
    everything = flat(sizes)
    plan = plan_once(everything, batch)
    assert sorted(k for micro in plan for k in micro) == list(range(len(everything)))
    assert_within(plan, everything, batch)
    assert plan == plan_once(everything, batch)


@given(
    st.lists(st.tuples(st.integers(1, 30), st.sampled_from([0, 0.1, 0.5, 0.75, 1, 1.5, 2, 3.3])),
             min_size=1, max_size=3).filter(lambda s: any(w for _, w in s)),
    seeds,
    st.integers(1, 7),
)  # fmt: skip
def test_weights_are_kept_exactly_over_any_number_of_epochs(
    parts: list[tuple[int, float]], seed: int, epochs: int
) -> None:
    counts, weights = [n for n, _ in parts], [w for _, w in parts]
    drawn = Counter(
        k
        for epoch in range(epochs)
        for k in draw_epoch(counts, weights, seed=seed, epoch=epoch).tolist()
    )
    start = 0
    for count, weight in parts:
        times = [drawn[k] for k in range(start, start + count)]
        assert sum(times) == floor(epochs * weight * count + 1e-6)
        assert max(times) - min(times) <= 1
        start += count
    assert sum(drawn.values()) == sum(drawn[k] for k in range(start))


@given(sources, batches, seeds)
def test_a_plan_is_the_same_for_a_seed_and_another_each_epoch(
    sizes: list[list[SampleSize]], batch: BatchSpec, seed: int
) -> None:
    weights = [1.0] * len(sizes)

    def plan(epoch: int) -> list[list[int]]:
        return plan_epoch(sizes, weights, seed=seed, epoch=epoch, batch=batch)

    assert plan(1) == plan(1)
    arrays = [np.array(source) for source in sizes]
    assert plan(1) == plan_epoch(arrays, weights, seed=seed, epoch=1, batch=batch)


def test_epochs_and_seeds_differ() -> None:
    sizes = [[SampleSize(10, 1)] * 60]
    plans = [
        plan_epoch(sizes, [1.0], seed=seed, epoch=epoch, batch=BUDGET)
        for seed in (0, 1) for epoch in (0, 1)
    ]  # fmt: skip
    assert all(a != b for i, a in enumerate(plans) for b in plans[:i])


@given(sources, batches, seeds)
def test_the_first_micro_batch_of_all_is_the_largest(
    sizes: list[list[SampleSize]], batch: BatchSpec, seed: int
) -> None:
    plan = plan_epoch(sizes, [1.0] * len(sizes), seed=seed, epoch=0, batch=batch)
    everything = flat(sizes)

    def load(micro: list[int]) -> float:
        padded = len(micro) * max(everything[k].tokens for k in micro)
        return padded / batch.tokens + sum(everything[k].tiles for k in micro) / batch.tiles

    assert load(plan[0]) == max(load(micro) for micro in plan)


def test_grouping_by_length_pads_less_than_chance() -> None:
    rng = np.random.default_rng(0)
    sizes = [[SampleSize(int(n), 0) for n in rng.integers(1, 100, 500)]]

    def padding(window: int) -> float:
        batch = BatchSpec(tokens=800, tiles=1, window=window)
        plan = plan_epoch(sizes, [1.0], seed=0, epoch=0, batch=batch)
        padded = sum(len(m) * max(sizes[0][k].tokens for k in m) for m in plan)
        return 1 - sum(size.tokens for size in sizes[0]) / padded

    assert padding(500) < 0.1 < 0.25 < padding(8)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (
            SampleSize(101, 0),
            "sample 1 alone has 101 tokens.*raise data.batch.tokens to at least 101",
        ),
        (SampleSize(5, 10), "sample 1 alone has 10 tiles.*raise data.batch.tiles to at least 10"),
    ],
)
def test_a_sample_over_a_budget_says_what_to_raise(size: SampleSize, expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        plan_epoch([[SampleSize(1, 0), size]], [1.0], seed=0, epoch=0, batch=BUDGET)


def test_nothing_to_train_on_is_an_error_and_not_an_endless_search() -> None:
    with pytest.raises(RecipeError, match="weight"):
        plan_epoch([[SampleSize(1, 0)]], [0.0], seed=0, epoch=0, batch=BUDGET)
