"""Plan, crop and count agree for every size of image."""

from typing import Literal, TypeAlias

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.oracles.crop import crop_slowly

from triptych.images import FixedTiling, TileLayout, crop_tiles, image_tokens, plan_tiles

Fit: TypeAlias = Literal["stretch", "pad", "crop"]

SIDES = st.integers(1, 4000)
FITS = st.sampled_from(["stretch", "pad", "crop"])
TILE = st.integers(1, 400)


@given(SIDES, SIDES, TILE, FITS)
@example(1, 4000, 336, "crop")
@example(4000, 1, 336, "pad")
@example(1, 1, 336, "crop")
def test_windows_are_integers_and_cover_what_the_fit_promises(
    width: int, height: int, size: int, fit: Fit
) -> None:
    plan = plan_tiles(width, height, size, FixedTiling(fit=fit))
    assert plan.tiles == plan.grid[0] * plan.grid[1] == 1
    window = plan.windows[0]
    left, top, right, bottom = window.source
    numbers = (*window.source, *window.scaled, window.left, window.top)
    assert all(type(number) is int for number in numbers)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    scaled_width, scaled_height = window.scaled
    if fit == "crop":
        # The tile lies inside the resized box, whose short side it fills.
        assert min(window.scaled) == size
        assert 0 <= window.left <= scaled_width - size
        assert 0 <= window.top <= scaled_height - size
        assert max(window.scaled) <= 8 * size
    else:
        # Nothing of the image is lost.
        assert window.source == (0, 0, width, height)
        assert window.left <= 0
        assert window.left + size >= scaled_width
        assert window.top <= 0
        assert window.top + size >= scaled_height


@given(SIDES, SIDES, TILE)
def test_pad_keeps_the_aspect_ratio_to_half_a_pixel(width: int, height: int, size: int) -> None:
    scaled = plan_tiles(width, height, size, FixedTiling(fit="pad")).windows[0].scaled
    longest = max(width, height)
    assert max(scaled) == size
    for side, source in zip(scaled, (width, height), strict=True):
        exact = source * size / longest
        assert abs(side - exact) <= 0.5 or (side == 1 and exact < 1)


@given(SIDES, SIDES, TILE)
def test_padding_is_centred(width: int, height: int, size: int) -> None:
    window = plan_tiles(width, height, size, FixedTiling(fit="pad")).windows[0]
    for scaled, before in zip(window.scaled, (-window.left, -window.top), strict=True):
        after = size - scaled - before
        assert after - before in (0, 1)


@given(SIDES, SIDES, TILE)
def test_a_crop_takes_the_centre(width: int, height: int, size: int) -> None:
    window = plan_tiles(width, height, size, FixedTiling(fit="crop")).windows[0]
    left, top, right, bottom = window.source
    shortest = min(width, height)
    centre_x = left + (window.left + size / 2) * (right - left) / window.scaled[0]
    centre_y = top + (window.top + size / 2) * (bottom - top) / window.scaled[1]
    tolerance = 1 + shortest / size
    assert abs(centre_x - width / 2) <= tolerance
    assert abs(centre_y - height / 2) <= tolerance


@settings(max_examples=25, deadline=None)
@given(SIDES, SIDES, st.integers(1, 64), FITS)
@example(1, 4000, 64, "crop")
@example(4000, 1, 64, "crop")
@example(4000, 4000, 8, "stretch")
def test_pixels_and_tokens_follow_the_plan(width: int, height: int, size: int, fit: Fit) -> None:
    plan = plan_tiles(width, height, size, FixedTiling(fit=fit))
    tiles = crop_tiles(Image.new("RGB", (width, height), (200, 10, 30)), plan)
    assert tiles.shape == (plan.tiles, 3, size, size)
    assert tiles.dtype == np.uint8
    layout = TileLayout(rows=3, columns=5, prefix=1)
    assert image_tokens(plan, layout) == tiles.shape[0] * 16


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 12), FITS, st.integers(0, 99))
def test_crop_equals_the_obvious_crop(
    width: int, height: int, size: int, fit: Fit, seed: int
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    plan = plan_tiles(width, height, size, FixedTiling(fit=fit, fill=(1, 2, 3)))
    np.testing.assert_array_equal(crop_tiles(image, plan), crop_slowly(image, plan))
