"""A map as labels of its pixels: which region each one belongs to, and where marks go.

Shapes: H, W height and width in pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (222, 84, 78),
    "orange": (243, 158, 66),
    "yellow": (245, 224, 96),
    "green": (104, 178, 98),
    "blue": (96, 140, 214),
    "purple": (158, 104, 190),
    "pink": (240, 160, 196),
    "brown": (150, 104, 70),
}
GROUND = (226, 236, 242)
BORDER = (70, 70, 70)
MARK_SIZE, MARK_SHARE = 14, 30
"""Font size of a mark in pixels: at least so many, and one in so many of the longer side."""
LEAST_AREA = 250
"""Pixels of a region that can be marked."""
LEAST_DEPTH = 5
"""Pixels between a mark and the nearest border of its region."""
NO_REGION = 0


@dataclass(frozen=True)
class Region:
    """A region of a chart that can be marked.

    Attributes:
        label: its number in the labels of the chart.
        name: what it is called.
        capital: of it, where that is known.
        place: x and y of the pixel that is furthest from its borders.
        area: in pixels.
    """

    label: int
    name: str
    place: tuple[int, int]
    area: int
    capital: str | None = None


def find_region(
    labels: NDArray[np.uint8], label: int, name: str, capital: str | None = None
) -> Region | None:
    """The region with a label, or None where it is too small to be marked.

    Args:
        labels: H x W.
        label: of the region.
        name: of the region.
        capital: of the region.
    """
    mask = labels == label
    area = int(mask.sum())
    if area < LEAST_AREA:
        return None
    place, depth = deepest(mask)
    return Region(label, name, place, area, capital) if depth >= LEAST_DEPTH else None


def deepest(mask: NDArray[np.bool_]) -> tuple[tuple[int, int], int]:
    """The pixel that is furthest from the outside (x, y), and how far it is, in king's moves.

    Args:
        mask: H x W, with at least one pixel.
    """
    rows, columns = np.nonzero(mask)
    top, left = int(rows.min()), int(columns.min())
    cut = mask[top : rows.max() + 1, left : columns.max() + 1]
    sums = np.pad(cut.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))

    def squares(reach: int) -> NDArray[np.int64]:
        """Upper left corners of the squares around a pixel that lie inside."""
        side = 2 * reach + 1
        inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side]
        return np.argwhere(inside + sums[:-side, :-side] == side**2)

    least, most = 0, (min(cut.shape) - 1) // 2
    while least < most:
        middle = (least + most + 1) // 2
        least, most = (middle, most) if len(squares(middle)) else (least, middle - 1)
    found = squares(least)
    row, column = found[len(found) // 2]
    return (left + int(column) + least, top + int(row) + least), least + 1


def paint(
    labels: NDArray[np.uint8], colours: Mapping[int, str], borders: NDArray[np.bool_]
) -> Image.Image:
    """The map: each region in its colour, what is no region in the colour of water.

    Args:
        labels: H x W.
        colours: names of ``COLOURS`` by label.
        borders: H x W, pixels of the colour of borders.
    """
    table = np.tile(np.array(GROUND, np.uint8), (256, 1))
    for label, colour in colours.items():
        table[label] = COLOURS[colour]
    pixels = table[labels]
    pixels[borders] = BORDER
    return Image.fromarray(pixels)


def find_borders(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels whose right or lower neighbour is of another region.

    Args:
        labels: H x W.
    """
    borders = np.zeros(labels.shape, dtype=np.bool_)
    borders[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    borders[:-1] |= labels[:-1] != labels[1:]
    return borders


def find_neighbours(labels: NDArray[np.uint8], reach: int) -> frozenset[tuple[int, int]]:
    """Pairs of regions, the smaller label first, that come within ``reach`` pixels of each other.

    Args:
        labels: H x W.
        reach: 1 where regions lie side by side, more where a line runs between them.
    """
    wide = labels.astype(np.int64)
    height, width = wide.shape
    codes: set[int] = set()
    for down, right in product(range(reach + 1), range(-reach, reach + 1)):
        one = wide[: height - down, max(0, -right) : width - max(0, right)]
        other = wide[down:, max(0, right) : width - max(0, -right)]
        least, most = np.minimum(one, other), np.maximum(one, other)
        codes.update(np.unique((least << 8 | most)[(least > 0) & (least < most)]).tolist())
    return frozenset((code >> 8, code & 255) for code in codes)


def draw_marks(picture: Image.Image, places: Sequence[tuple[int, int]]) -> Image.Image:
    """Draw the numbers 1, 2, ... at places (x, y), black on white boxes; a copy."""
    marked = picture.copy()
    pen = ImageDraw.Draw(marked)
    font = _mark_font(max(MARK_SIZE, max(picture.size) // MARK_SHARE))
    for number, (x, y) in enumerate(places, 1):
        box = pen.textbbox((x, y), str(number), font=font, anchor="mm")
        pen.rectangle((box[0] - 2, box[1] - 2, box[2] + 2, box[3] + 2), (255, 255, 255), BORDER)
        pen.text((x, y), str(number), (0, 0, 0), font=font, anchor="mm")
    return marked


def _mark_font(size: int) -> ImageFont.FreeTypeFont:
    # Part of matplotlib, so that a mark looks the same wherever the dependencies are the same.
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"
    return ImageFont.truetype(str(path), size)
