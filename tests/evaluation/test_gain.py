"""The interval of a gain against resampling whole clusters, which needs no formula."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.evaluation.gain import gain_margin


def resampled(clusters: list[list[float]], rng: np.random.Generator) -> float:
    """1.96 standard deviations of the mean over clusters drawn with replacement."""
    means = []
    for _ in range(4000):
        drawn = [clusters[index] for index in rng.integers(len(clusters), size=len(clusters))]
        means.append(np.mean(np.concatenate(drawn)))
    return float(1.96 * np.std(means))


@pytest.mark.parametrize("alike", [False, True])
def test_it_is_what_resampling_clusters_gives(alike: bool) -> None:
    rng = np.random.default_rng(0)
    clusters = []
    for size in rng.integers(1, 9, size=150):
        values = rng.choice([-1.0, 0.0, 1.0], p=[0.1, 0.5, 0.4], size=size)
        clusters.append([float(values[0])] * size if alike else [float(one) for one in values])
    rows = [(number, value) for number, row in enumerate(clusters) for value in row]
    assert gain_margin(rows) == pytest.approx(resampled(clusters, rng), rel=0.08)


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=2, max_size=40))
def test_questions_that_share_nothing_have_the_plain_standard_error(values: list[float]) -> None:
    plain = 1.96 * np.std(values, ddof=1) / math.sqrt(len(values))
    assert gain_margin(enumerate(values)) == pytest.approx(plain, abs=1e-12)


@given(
    st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=2, max_size=20),
    st.integers(min_value=2, max_value=9),
)
def test_asking_the_same_again_is_no_evidence(values: list[float], times: int) -> None:
    once = gain_margin(enumerate(values))
    assert gain_margin(list(enumerate(values)) * times) == pytest.approx(once, abs=1e-12)


def test_of_one_cluster_nothing_can_be_said() -> None:
    assert gain_margin([]) is None
    assert gain_margin([("a", 1.0), ("a", 0.0)]) is None
