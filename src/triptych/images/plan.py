"""From the size of an image to its tiles: pure integers, no pixels.

An image is looked at in one or two views: an overview of one tile, and a grid of tiles. In each
view a box of the image is resized to ``scaled`` and laid on a canvas of whole tiles; what it does
not cover is fill. Worked example: 640x480 with ``fit: pad`` at 336 px in one tile is resized whole
to 336x252 and laid at top 42, so that 42 rows of fill stand above and below it.

A view may be zoomed: looked at once more in a finer grid, whose tiles are encoded too but have no
place of their own in the sequence (see ``groups``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TypeAlias

from triptych.errors import ImageError
from triptych.images.tiling import (
    AnyresTiling,
    FixedTiling,
    Grid,
    GriddedTiling,
    TilingSpec,
    Zoom,
)

Box: TypeAlias = tuple[int, int, int, int]

# A crop keeps 1 part of the long side; this many are enough for the resampling filter, and they
# bound the memory that a 1 x 100000 image takes when it is enlarged.
CROP_CONTEXT = 8


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
class View:
    """A box of the image, resized once and laid on a canvas of whole tiles.

    Attributes:
        source: box (left, top, right, bottom) of the image.
        scaled: width and height that the box is resized to.
        left, top: where it stands on the canvas; negative where it is cut off.
        grid: rows and columns of tiles.
        centred: whether padding stands on both sides.
        skipped: numbers of the tiles, row by row, that are all padding and are not encoded.
        magnified: rows and columns of tiles for each tile of the view that this one magnifies.
    """

    source: Box
    scaled: tuple[int, int]
    left: int
    top: int
    grid: Grid = (1, 1)
    centred: bool = True
    skipped: frozenset[int] = frozenset()
    magnified: Grid = (1, 1)


@dataclass(frozen=True)
class TilePlan:
    """The tiles of one image.

    Attributes:
        width, height: pixels of the image, upright.
        size: side of a tile in pixels.
        views: the grid, with the overview before it if there is one.
        spec: what the plan was made from.
        zooms: for each view the same in a finer grid, or None; empty where nothing is zoomed.
    """

    width: int
    height: int
    size: int
    views: tuple[View, ...]
    spec: TilingSpec
    zooms: tuple[View | None, ...] = ()

    @property
    def all_views(self) -> tuple[View, ...]:
        """The views of the sequence, then those that zoom."""
        return (*self.views, *(zoom for zoom in self.zooms if zoom is not None))

    @cached_property
    def windows(self) -> tuple[Window, ...]:
        """The tiles that are encoded: the overview, the grid row by row, then zooming ones."""
        return tuple(
            Window(view.source, view.scaled, column * self.size - view.left, top)
            for view in self.all_views
            for row in range(view.grid[0])
            for top in (row * self.size - view.top,)
            for column in range(view.grid[1])
            if row * view.grid[1] + column not in view.skipped
        )

    @property
    def tiles(self) -> int:
        """Number of tiles that are encoded, the overview among them."""
        return len(self.windows)

    @property
    def in_sequence(self) -> int:
        """Number of tiles that are encoded and have a place in the sequence."""
        return sum(view.grid[0] * view.grid[1] - len(view.skipped) for view in self.views)

    @property
    def grid(self) -> Grid:
        """Rows and columns of tiles, skipped ones among them."""
        return self.views[-1].grid

    @property
    def overview(self) -> View | None:
        """The view of the whole image in one tile before the grid."""
        return self.views[0] if len(self.views) > 1 else None

    @property
    def skipped(self) -> int:
        """Number of tiles that are all padding and are not encoded."""
        return len(self.views[-1].skipped)


@lru_cache(maxsize=1024)
def plan_tiles(
    width: int, height: int, size: int, spec: TilingSpec, zoom: Zoom | None = None
) -> TilePlan:
    """Plan the tiles of an image of ``width`` x ``height`` pixels for towers of side ``size``.

    Args:
        width: of the image in pixels.
        height: of the image in pixels.
        size: side of a tile.
        spec: the tiles of the sequence.
        zoom: what is looked at once more, without a place in the sequence.

    Raises:
        ImageError: when a side is not positive.
    """
    if min(width, height, size) < 1:
        raise ImageError(
            f"cannot plan tiles for an image of {width}x{height} pixels at tile side {size}: "
            "every side must be at least 1"
        )
    views = _views(width, height, size, spec)
    zooms = () if zoom is None else _zooms(views, (width, height), size, zoom)
    return TilePlan(width, height, size, views, spec, zooms)


def _views(width: int, height: int, size: int, spec: TilingSpec) -> tuple[View, ...]:
    if isinstance(spec, FixedTiling):
        fits = {"stretch": _stretch, "pad": _pad, "crop": _crop}
        return (fits[spec.fit](width, height, size),)
    if isinstance(spec, AnyresTiling):
        grid = choose_grid(width, height, size, spec.candidates)
        alone = grid == (1, 1) and not spec.one_tile_overview
    else:
        grid, alone = (spec.side, spec.side), False
    view = _lay_grid(width, height, size, grid, spec)
    overview = () if alone or spec.overview == "none" else (_overview(width, height, size, spec),)
    return (*overview, view)


def _zooms(
    views: tuple[View, ...], image: tuple[int, int], size: int, zoom: Zoom
) -> tuple[View | None, ...]:
    if zoom.of == "tiles":
        return tuple(_magnify(view, zoom.grids[0], size) for view in views)
    first, others = views[0], (None,) * (len(views) - 1)
    if first.grid != (1, 1):
        return (None, *others)
    if zoom.fit == "pad":
        grid = choose_grid(*image, size, zoom.grids)
        canvas = (grid[1] * size, grid[0] * size)
        scaled = _shrink(*image, canvas, up=True)
        left, top = _place(scaled, canvas, centred=True)
        empty = _empty(scaled, (left, top), grid, size)
        return (View(first.source, scaled, left, top, grid, skipped=empty), *others)
    # What the square tile shows, in pixels of the image, its padding included.
    box = first.source
    width = max(1, size * (box[2] - box[0]) // first.scaled[0])
    height = max(1, size * (box[3] - box[1]) // first.scaled[1])
    return (_magnify(first, choose_grid(width, height, size, zoom.grids), size), *others)


def _magnify(view: View, factor: Grid, size: int) -> View:
    """The same view with ``factor`` rows and columns of tiles for each of its tiles."""
    rows, columns = factor
    grid = (view.grid[0] * rows, view.grid[1] * columns)
    scaled = (view.scaled[0] * columns, view.scaled[1] * rows)
    left, top = view.left * columns, view.top * rows
    empty = _empty(scaled, (left, top), grid, size)
    return View(view.source, scaled, left, top, grid, view.centred, empty, factor)


def choose_grid(width: int, height: int, size: int, candidates: Sequence[Grid]) -> Grid:
    """The candidate grid that shows the image at the largest effective resolution.

    That is the pixels of the image after it was scaled into the grid, but never more than it has.
    Among equals the one with the least unused canvas wins, then the first.
    """

    def merit(grid: Grid) -> tuple[int, int]:
        canvas_width, canvas_height = grid[1] * size, grid[0] * size
        if width * canvas_height >= height * canvas_width:
            scaled = canvas_width * (height * canvas_width // width)
        else:
            scaled = canvas_height * (width * canvas_height // height)
        effective = min(scaled, width * height)
        return effective, effective - canvas_width * canvas_height

    return max(candidates, key=merit)


def _lay_grid(width: int, height: int, size: int, grid: Grid, spec: GriddedTiling) -> View:
    canvas = (grid[1] * size, grid[0] * size)
    whole = (0, 0, width, height)
    if spec.fit == "stretch":
        return View(whole, canvas, 0, 0, grid)
    scaled = _shrink(width, height, canvas, up=isinstance(spec, AnyresTiling))
    centred = spec.anchor == "centre"
    left, top = _place(scaled, canvas, centred=centred)
    empty = _empty(scaled, (left, top), grid, size)
    skipped = empty if spec.leaves_out else frozenset()
    return View(whole, scaled, left, top, grid, centred, skipped)


def _empty(
    scaled: tuple[int, int], place: tuple[int, int], grid: Grid, size: int
) -> frozenset[int]:
    """Numbers of the tiles of a grid, row by row, that show nothing of what lies at ``place``."""
    left, top = place
    return frozenset(
        row * grid[1] + column
        for row in range(grid[0])
        for column in range(grid[1])
        if not (
            left < (column + 1) * size
            and column * size < left + scaled[0]
            and top < (row + 1) * size
            and row * size < top + scaled[1]
        )
    )


def _overview(width: int, height: int, size: int, spec: GriddedTiling) -> View:
    if spec.overview == "squash":
        return _stretch(width, height, size)
    return _pad(width, height, size, centred=spec.anchor == "centre")


def _stretch(width: int, height: int, size: int) -> View:
    return View((0, 0, width, height), (size, size), 0, 0)


def _pad(width: int, height: int, size: int, *, centred: bool = True) -> View:
    scaled = _shrink(width, height, (size, size), up=False)
    left, top = _place(scaled, (size, size), centred=centred)
    return View((0, 0, width, height), scaled, left, top, centred=centred)


def _crop(width: int, height: int, size: int) -> View:
    """Shortest side to ``size``, then the central square, as CLIP's processor does."""
    shortest = min(width, height)
    kept_width = min(width, CROP_CONTEXT * shortest)
    kept_height = min(height, CROP_CONTEXT * shortest)
    left, top = (width - kept_width) // 2, (height - kept_height) // 2
    scaled = (size * kept_width // shortest, size * kept_height // shortest)
    return View(
        source=(left, top, left + kept_width, top + kept_height),
        scaled=scaled,
        left=-((scaled[0] - size) // 2),
        top=-((scaled[1] - size) // 2),
    )


def _shrink(width: int, height: int, canvas: tuple[int, int], *, up: bool) -> tuple[int, int]:
    """The largest size of the same shape on ``canvas``; its short side rounded up, or to nearest.

    Rounding up is LLaVA-NeXT's and xGen-MM's way. Rounding to nearest keeps a shape of 2001x1000
    from reaching into the next row of tiles with a single row of pixels.
    """
    canvas_width, canvas_height = canvas
    if width * canvas_height >= height * canvas_width:
        return canvas_width, min(canvas_height, _divide(height * canvas_width, width, up=up))
    return min(canvas_width, _divide(width * canvas_height, height, up=up)), canvas_height


def _divide(dividend: int, divisor: int, *, up: bool) -> int:
    """The quotient rounded up or to nearest, at least 1."""
    quotient = -(-dividend // divisor) if up else (2 * dividend + divisor) // (2 * divisor)
    return max(1, quotient)


def _place(scaled: tuple[int, int], canvas: tuple[int, int], *, centred: bool) -> tuple[int, int]:
    if not centred:
        return 0, 0
    return (canvas[0] - scaled[0]) // 2, (canvas[1] - scaled[1]) // 2
