"""Worked examples of plan, crop and count."""

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from triptych.errors import ImageError
from triptych.images import (
    FixedTiling,
    TileLayout,
    Window,
    crop_tiles,
    image_tokens,
    plan_tiles,
)


def test_pad_puts_the_image_in_the_middle() -> None:
    plan = plan_tiles(640, 480, 336, FixedTiling(fit="pad", fill=(9, 8, 7)))
    assert plan.windows == (Window((0, 0, 640, 480), (336, 252), 0, -42),)
    tile = crop_tiles(Image.new("RGB", (640, 480), "white"), plan)[0]
    assert (tile[:, 42:294] == 255).all()
    assert (tile[:, 41] == np.array([[9], [8], [7]])).all()
    assert (tile[:, 294] == np.array([[9], [8], [7]])).all()


def test_crop_keeps_the_middle() -> None:
    image = Image.new("RGB", (30, 10), "black")
    image.paste("white", (10, 0, 20, 10))
    plan = plan_tiles(30, 10, 10, FixedTiling(fit="crop"))
    assert (crop_tiles(image, plan) == 255).all()


def test_stretch_of_a_square_of_the_right_size_is_the_image_itself() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    plan = plan_tiles(8, 8, 8, FixedTiling())
    np.testing.assert_array_equal(
        crop_tiles(Image.fromarray(pixels), plan)[0], pixels.transpose(2, 0, 1)
    )


def test_a_very_long_image_is_not_enlarged_whole() -> None:
    plan = plan_tiles(1, 4000, 336, FixedTiling(fit="crop"))
    assert plan.windows[0].source == (0, 1996, 1, 2004)
    assert plan.windows[0].scaled == (336, 2688)


def test_an_image_of_another_size_or_mode_is_refused() -> None:
    plan = plan_tiles(8, 8, 4, FixedTiling())
    with pytest.raises(ImageError, match="9x8 RGB, but its tiles were planned for 8x8"):
        crop_tiles(Image.new("RGB", (9, 8)), plan)
    with pytest.raises(ImageError, match="8x8 L"):
        crop_tiles(Image.new("L", (8, 8)), plan)


def test_sides_must_be_positive() -> None:
    with pytest.raises(ImageError, match="0x5"):
        plan_tiles(0, 5, 8, FixedTiling())


def test_fill_is_a_colour() -> None:
    with pytest.raises(ValidationError):
        FixedTiling(fill=(0, 0, 256))


def test_tokens_are_tiles_times_layout() -> None:
    plan = plan_tiles(100, 50, 336, FixedTiling())
    assert image_tokens(plan, TileLayout(rows=24, columns=24)) == 576
    assert image_tokens(plan, TileLayout(rows=24, columns=24, prefix=1)) == 577
