"""The blind baseline never shows a record one of its own images."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.errors import DataError
from triptych.evaluation.blind import swap_images

KEYS = st.sampled_from("abcdefghij")


@given(st.lists(st.lists(KEYS, max_size=3), max_size=30), st.integers(0, 5))
def test_nobody_sees_an_own_image(images: list[list[str]], seed: int) -> None:
    everything = {key for own in images for key in own}
    try:
        given = swap_images(images, seed)
    except DataError:
        assert any(set(own) >= everything for own in images if own)
        return
    assert len(given) == len(images)
    for own, other in zip(images, given, strict=True):
        assert len(own) == len(other)
        assert set(own).isdisjoint(other)
        assert set(other) <= everything
    assert given == swap_images(images, seed)


@given(st.integers(2, 40), st.integers(1, 3), st.integers(0, 3))
def test_whole_sets_are_passed_on_where_sets_are_disjoint(
    records: int, size: int, seed: int
) -> None:
    images = [[f"{record}.{k}" for k in range(size)] for record in range(records)]
    given = swap_images(images, seed)
    assert sorted(given) == sorted(tuple(own) for own in images)


def test_the_seed_decides() -> None:
    images = [[str(number)] for number in range(20)]
    assert swap_images(images, 0) != swap_images(images, 1)


def test_records_with_the_same_image_get_the_same_other_one() -> None:
    given = swap_images([["a"], ["b"], ["a"], ["c"], []], 0)
    assert given[0] == given[2]
    assert given[4] == ()


def test_one_image_everywhere_is_refused() -> None:
    with pytest.raises(DataError, match="no-blind"):
        swap_images([["a"], ["a", "a"]], 0)
