"""From an image and its plan to tiles of pixels.

Shape suffixes: T tiles, S side of a tile in pixels.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from triptych.errors import ImageError
from triptych.images.plan import TilePlan


def crop_tiles(image: Image.Image, plan: TilePlan) -> NDArray[np.uint8]:
    """Cut the tiles of ``plan`` out of an RGB image, with bicubic resampling.

    Returns:
        (T, 3, S, S) in 0..255, contiguous.

    Raises:
        ImageError: when the image is not of the planned size or not RGB.
    """
    if image.size != (plan.width, plan.height) or image.mode != "RGB":
        raise ImageError(
            f"the image is {image.width}x{image.height} {image.mode}, but its tiles were planned "
            f"for {plan.width}x{plan.height} RGB; open it with open_image before cropping"
        )
    tiles = np.empty((plan.tiles, 3, plan.size, plan.size), dtype=np.uint8)
    resized: dict[tuple[object, object], Image.Image] = {}
    for index, window in enumerate(plan.windows):
        key = (window.source, window.scaled)
        if key not in resized:
            part = image if window.source == (0, 0, *image.size) else image.crop(window.source)
            resized[key] = part.resize(window.scaled, Image.Resampling.BICUBIC)
        tile = Image.new("RGB", (plan.size, plan.size), plan.spec.fill)
        tile.paste(resized[key], (-window.left, -window.top))
        tiles[index] = np.asarray(tile).transpose(2, 0, 1)
    return tiles
