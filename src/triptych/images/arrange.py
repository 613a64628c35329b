"""The visual tokens of an image in their order: the one description that everybody follows.

``arrange`` lists them as runs: stretches of a tile's own tokens, and single learnable tokens. What
an image costs is the length of the list, the placeholders are as many, and the model copies its
tokens by the same list, so that the three cannot disagree.

Shape suffixes: T tiles, P tokens of a tile before the connector, V visual tokens of a tile.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from triptych.errors import RecipeError
from triptych.images.layout import TileLayout
from triptych.images.plan import TilePlan, View
from triptych.images.tiling import GriddedTiling, TilingSpec


class Learned(IntEnum):
    """Tokens that no tile gives: their embeddings are parameters of the model."""

    SKIP = 0
    SEPARATOR = 1
    START = 2
    END = 3


@dataclass(frozen=True)
class Run:
    """Visual tokens [start, stop) of a tile, or one learnable token.

    Attributes:
        tile: number of the encoded tile in its image; None for the token ``Learned(start)``.
    """

    tile: int | None
    start: int
    stop: int


@dataclass(frozen=True)
class Extent:
    """The part of a grid of tokens that shows the image: [top, bottom) x [left, right)."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def empty(self) -> bool:
        """Whether no token is left."""
        return self.top >= self.bottom or self.left >= self.right


Interval: TypeAlias = tuple[int, int]


@lru_cache(maxsize=1024)
def arrange(plan: TilePlan, layout: TileLayout) -> tuple[Run, ...]:
    """The visual tokens of an image in order.

    Args:
        plan: the tiles of the image.
        layout: tokens of one tile as the language model sees them, behind the connector. With
            ``whole_image`` the tokens of the image are one tile 0.
    """
    if layout.whole_image:
        return (Run(0, 0, layout.tokens),)
    if plan.spec.order == "rows":
        return tuple(_by_rows(plan, layout))
    return tuple(_by_tiles(plan, layout))


def learned_tokens(spec: TilingSpec, layout: TileLayout) -> tuple[Learned, ...]:
    """The learnable tokens that a tiling can ask for, in the order of their rows."""
    if layout.whole_image:
        return ()
    wanted = {
        Learned.SKIP: spec.skips != "none",
        Learned.SEPARATOR: spec.row_separator,
        Learned.START: spec.tile_tags,
        Learned.END: spec.tile_tags,
    }
    return tuple(token for token, used in wanted.items() if used)


def check_layout(spec: TilingSpec, layout: TileLayout, *, masks_padding: bool) -> None:
    """Refuse a tiling that asks for what the visual tokens cannot give.

    Args:
        spec: the tiling.
        layout: tokens of one tile behind the connector.
        masks_padding: whether the connector takes a mask of padding.

    Raises:
        RecipeError: rows or unpadding of tokens that have no place; token marks around tiles that
            are sampled together; or tiles of padding alone for a connector that would mask them.
    """
    if spec.order == "rows" and (layout.prefix or layout.whole_image):
        raise RecipeError(
            f"model.tiling.order: 'rows' needs a grid of visual tokens and nothing else, but the "
            f"connector gives {layout.prefix} without a place; set order: tiles"
        )
    if spec.unpad and (layout.whole_image or layout.rows * layout.columns == 0):
        raise RecipeError(
            "model.tiling.unpad: the connector's visual tokens have no place in the image, so none "
            "of them shows padding alone; set unpad: false"
        )
    if layout.whole_image and (spec.tile_tags or spec.row_separator):
        raise RecipeError(
            "model.tiling: the connector samples the whole image, so that tile_tags and "
            "row_separator have no place; set both to false"
        )
    empty = isinstance(spec, GriddedTiling) and spec.fit == "pad" and not spec.leaves_out
    if masks_padding and empty:
        raise RecipeError(
            "model.tiling.skip: the connector masks padding, and a tile that is all padding would "
            "leave it nothing to see; set skip: bare"
        )


def token_sources(
    runs: Sequence[Run],
    layout: TileLayout,
    learned: Sequence[Learned],
    *,
    first_tile: int,
    tiles: int,
) -> npt.NDArray[np.int64]:
    """Rows of a table that give the visual tokens of an image.

    The table holds the visual tokens of all tiles of a batch, tile by tile, and then one row for
    each of ``learned``.

    Args:
        runs: what ``arrange`` gave.
        layout: tokens of one tile behind the connector.
        learned: the learnable tokens of the table.
        first_tile: number of the image's first tile in the batch.
        tiles: tiles of the batch.
    """
    rows = []
    for run in runs:
        if run.tile is None:
            row = tiles * layout.tokens + learned.index(Learned(run.start))
            rows.append(np.arange(row, row + 1))
        else:
            base = (first_tile + run.tile) * layout.tokens
            rows.append(np.arange(base + run.start, base + run.stop))
    return np.concatenate(rows)


def padding_mask(plan: TilePlan, layout: TileLayout) -> npt.NDArray[np.bool_]:
    """Which of a tile's tokens show the image: (T, P), False where they show padding.

    A tile that shows a little of the image, but has no token with enough of it, keeps those with
    any; so no tile is masked wholly.

    Args:
        plan: the tiles of the image.
        layout: tokens of one tile before the connector.
    """
    mask = np.zeros((plan.tiles, layout.tokens), dtype=np.bool_)
    mask[:, : layout.prefix] = True
    grids = mask[:, layout.prefix :].reshape(plan.tiles, layout.rows, layout.columns)
    tile = 0
    for view in plan.all_views:
        fair = shown(plan, view, layout, plan.spec.edge)
        any_ = shown(plan, view, layout, "any")
        for row, column in _cells(view):
            part = _within(fair, row, column, layout)
            part = _within(any_, row, column, layout) if part.empty else part
            grids[tile, part.top : part.bottom, part.left : part.right] = True
            tile += 1
    return mask


def shown(plan: TilePlan, view: View, layout: TileLayout, edge: str) -> Extent:
    """The part of a view's grid of tokens, over all its tiles, that shows the image.

    Args:
        plan: the tiles of the image.
        view: the overview or the grid.
        layout: tokens of one tile.
        edge: ``half`` or ``any``, see ``TilingBase``.
    """
    rows, columns = view.grid
    canvas = (columns * plan.size, rows * plan.size)
    tokens = (columns * layout.columns, rows * layout.rows)
    intervals: list[Interval] = []
    for axis, place in ((1, view.top), (0, view.left)):
        side, count, stop = canvas[axis], tokens[axis], place + view.scaled[axis]
        first, last = max(0, place) * count // side, -(-min(side, stop) * count // side)
        if edge == "half" and (place > 0 or stop < side):
            # What the scaled image would cover without rounding to pixels, as a fraction.
            shape = (plan.width, plan.height)
            factor = view.magnified[::-1]
            covered = shape[axis] * (canvas[1 - axis] // factor[1 - axis]) * count
            whole = shape[1 - axis] * (side // factor[axis])
            fair = _half_covered(covered, whole, count, centred=view.centred)
            first, last = max(first, fair[0]), min(last, fair[1])
        intervals.append((first, last))
    (top, bottom), (left, right) = intervals
    return Extent(top, bottom, left, right)


def _half_covered(covered: int, whole: int, count: int, *, centred: bool) -> Interval:
    """Tokens of ``count`` that are at least half covered by ``covered / whole``; at least one."""
    if not centred:
        return 0, max(1, (2 * covered + whole) // (2 * whole))
    margin = (count - covered // whole) // 2
    margin = min(margin, (count - 1) // 2)
    return margin, count - margin


def _by_tiles(plan: TilePlan, layout: TileLayout) -> Iterator[Run]:
    spec = plan.spec
    tile = 0
    for view in plan.views:
        extent = shown(plan, view, layout, spec.edge) if spec.unpad else None
        for row in range(view.grid[0]):
            for column in range(view.grid[1]):
                skipped = row * view.grid[1] + column in view.skipped
                tagged = spec.tile_tags and (not skipped or spec.skips == "tagged")
                if tagged:
                    yield _mark(Learned.START)
                if skipped and spec.skips != "none":
                    yield _mark(Learned.SKIP)
                if not skipped:
                    yield from _tile(tile, extent, row, column, layout)
                    tile += 1
                if tagged:
                    yield _mark(Learned.END)
            if spec.row_separator and view is plan.views[-1]:
                yield _mark(Learned.SEPARATOR)


def _tile(
    tile: int, extent: Extent | None, row: int, column: int, layout: TileLayout
) -> Iterator[Run]:
    """The tokens of one tile, all of them or those within ``extent``."""
    part = None if extent is None else _within(extent, row, column, layout)
    if part is None or part == Extent(0, layout.rows, 0, layout.columns):
        yield Run(tile, 0, layout.tokens)
        return
    if layout.prefix:
        yield Run(tile, 0, layout.prefix)
    if not part.empty:
        for line in range(part.top, part.bottom):
            begin = layout.prefix + line * layout.columns
            yield Run(tile, begin + part.left, begin + part.right)


def _by_rows(plan: TilePlan, layout: TileLayout) -> Iterator[Run]:
    spec, view = plan.spec, plan.views[-1]
    first = 0
    if plan.overview is not None:
        whole = Extent(0, layout.rows, 0, layout.columns)
        extent = shown(plan, plan.overview, layout, spec.edge) if spec.unpad else whole
        yield from _tile(0, extent, 0, 0, layout)
        first = 1
    numbers = {cell: first + number for number, cell in enumerate(_cells(view))}
    whole = Extent(0, view.grid[0] * layout.rows, 0, view.grid[1] * layout.columns)
    extent = shown(plan, view, layout, spec.edge) if spec.unpad else whole
    for line in range(extent.top, extent.bottom):
        row, inner = divmod(line, layout.rows)
        for column in range(view.grid[1]):
            part = _within(extent, row, column, layout)
            if (row, column) in numbers and not part.empty:
                begin = inner * layout.columns
                yield Run(numbers[row, column], begin + part.left, begin + part.right)
        if spec.row_separator:
            yield _mark(Learned.SEPARATOR)


def _within(extent: Extent, row: int, column: int, layout: TileLayout) -> Extent:
    """The part of ``extent`` that lies in one tile, counted from the tile's first token."""
    top, left = row * layout.rows, column * layout.columns
    return Extent(
        top=max(0, extent.top - top),
        bottom=max(0, min(layout.rows, extent.bottom - top)),
        left=max(0, extent.left - left),
        right=max(0, min(layout.columns, extent.right - left)),
    )


def _cells(view: View) -> Iterator[tuple[int, int]]:
    """Row and column of the tiles of a view that are encoded."""
    for row in range(view.grid[0]):
        for column in range(view.grid[1]):
            if row * view.grid[1] + column not in view.skipped:
                yield row, column


def _mark(token: Learned) -> Run:
    return Run(None, int(token), int(token) + 1)
