"""The obvious crop: one pixel of the tile after the other."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from triptych.images.plan import TilePlan


def crop_slowly(image: Image.Image, plan: TilePlan) -> NDArray[np.uint8]:
    """Tiles (T, 3, S, S) by asking, for each pixel, whether the resized box covers it."""
    tiles = np.zeros((plan.tiles, 3, plan.size, plan.size), dtype=np.uint8)
    for index, window in enumerate(plan.windows):
        resized = image.crop(window.source).resize(window.scaled, Image.Resampling.BICUBIC)
        for row in range(plan.size):
            for column in range(plan.size):
                x, y = window.left + column, window.top + row
                inside = 0 <= x < resized.width and 0 <= y < resized.height
                colour = resized.getpixel((x, y)) if inside else plan.spec.fill
                tiles[index, :, row, column] = colour
    return tiles
