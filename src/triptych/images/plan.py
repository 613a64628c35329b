"""From the size of an image to its tiles: pure integers, no pixels.

Every tile is described by one rule: take a box of the image, resize it to ``scaled``, and cut the
square window whose corner is at (left, top); what lies outside the resized image is fill. Worked
example: 640x480 with ``fit: pad`` at 336 px is resized whole to 336x252, and its window starts at
top -42, so that 42 rows of fill stand above and below it.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from triptych.errors import ImageError
from triptych.spec import Spec

Box: TypeAlias = tuple[int, int, int, int]

Channel = Annotated[int, Field(ge=0, le=255)]

# A crop keeps 1 part of the long side; this many are enough for the resampling filter, and they
# bound the memory that a 1 x 100000 image takes when it is enlarged.
CROP_CONTEXT = 8


class FixedTiling(Spec):
    """One tile for every image, whatever its shape."""

    kind: Literal["fixed"] = "fixed"
    """Names this tiling."""

    fit: Literal["stretch", "pad", "crop"] = "stretch"
    """Stretch the image to the square, pad its short side, or crop its long side at the centre."""

    fill: tuple[Channel, Channel, Channel] = (127, 127, 127)
    """Colour (red, green, blue) of the padding."""


TilingSpec: TypeAlias = FixedTiling


@dataclass(frozen=True)
class Window:
    """Where the pixels of one tile come from.

    Attributes:
        source: box (left, top, right, bottom) of the image that is resized.
        scaled: width and height that the box is resized to.
        left, top: corner of the tile in the resized box; negative where padding comes first.
    """

    source: Box
    scaled: tuple[int, int]
    left: int
    top: int


@dataclass(frozen=True)
class TilePlan:
    """The tiles of one image.

    Attributes:
        width, height: pixels of the image, upright.
        size: side of a tile in pixels.
        grid: rows and columns of tiles.
        windows: one per tile, row by row.
        fill: colour of what lies outside the image.
    """

    width: int
    height: int
    size: int
    grid: tuple[int, int]
    windows: tuple[Window, ...]
    fill: tuple[int, int, int]

    @property
    def tiles(self) -> int:
        """Number of tiles."""
        return len(self.windows)


def plan_tiles(width: int, height: int, size: int, spec: TilingSpec) -> TilePlan:
    """Plan the tiles of an image of ``width`` x ``height`` pixels for towers of side ``size``.

    Raises:
        ImageError: when a side is not positive.
    """
    if min(width, height, size) < 1:
        raise ImageError(
            f"cannot plan tiles for an image of {width}x{height} pixels at tile side {size}: "
            "every side must be at least 1"
        )
    fits = {"stretch": _stretch, "pad": _pad, "crop": _crop}
    window = fits[spec.fit](width, height, size)
    return TilePlan(width, height, size, (1, 1), (window,), spec.fill)


def _stretch(width: int, height: int, size: int) -> Window:
    return Window((0, 0, width, height), (size, size), 0, 0)


def _pad(width: int, height: int, size: int) -> Window:
    longest = max(width, height)
    scaled_width = _scale(width, size, longest)
    scaled_height = _scale(height, size, longest)
    left, top = -((size - scaled_width) // 2), -((size - scaled_height) // 2)
    return Window((0, 0, width, height), (scaled_width, scaled_height), left, top)


def _crop(width: int, height: int, size: int) -> Window:
    """Shortest side to ``size``, then the central square, as CLIP's processor does."""
    shortest = min(width, height)
    kept_width = min(width, CROP_CONTEXT * shortest)
    kept_height = min(height, CROP_CONTEXT * shortest)
    left, top = (width - kept_width) // 2, (height - kept_height) // 2
    scaled = (size * kept_width // shortest, size * kept_height // shortest)
    return Window(
        source=(left, top, left + kept_width, top + kept_height),
        scaled=scaled,
        left=(scaled[0] - size) // 2,
        top=(scaled[1] - size) // 2,
    )


def _scale(side: int, size: int, longest: int) -> int:
    """``side * size / longest`` to the nearest integer, at least 1."""
    return max(1, (2 * side * size + longest) // (2 * longest))
