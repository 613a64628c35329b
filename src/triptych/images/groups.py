"""The tokens of zoomed tiles in groups that fit the tokens of the tile that was zoomed (DeepStack).

The finer tiles of one tile are joined into a mosaic of tokens, gh x gw times as large as the tile's
own grid, and the mosaic is parted into gh * gw groups, each as large as that grid (Meng et al.,
2024, arXiv 2406.04334, equation 4). A sampler says how:

- ``2d``: group (i, j) is every gh-th row and every gw-th column of the mosaic, from (i, j) on, so
  that token (r, c) of every group shows what token (r, c) of the tile shows.
- ``1d``: group k is every (gh * gw)-th token of the mosaic read row by row, from k on.
- ``grid``: group k is finer tile k.

Shape suffixes: G groups, T tiles, P tokens of a tile, V visual tokens of an image.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from triptych.errors import RecipeError
from triptych.images.arrange import Run
from triptych.images.layout import TileLayout
from triptych.images.plan import TilePlan, View
from triptych.images.tiling import FixedTiling, Grid, GriddedTiling, TilingSpec, Zoom

Sampler: TypeAlias = Literal["2d", "1d", "grid"]
Places: TypeAlias = npt.NDArray[np.int64]

NOTHING = -1
"""Stands in the place of a token where a group has none."""


def sample_mosaic(factor: Grid, layout: TileLayout, sampler: Sampler) -> Places:
    """Which token of the finer tiles stands where: (G, P), the tiles' tokens numbered in order.

    Prefix tokens have no place in a mosaic: with ``grid`` a group has those of its tile, otherwise
    ``NOTHING`` stands for them.

    Args:
        factor: rows and columns of finer tiles.
        layout: tokens of a tile.
        sampler: see above.
    """
    count, (down, across) = factor[0] * factor[1], factor
    numbers = np.arange(count * layout.tokens).reshape(count, layout.tokens)
    if sampler == "grid":
        return numbers
    rows, columns = layout.rows, layout.columns
    cells = numbers[:, layout.prefix :].reshape(down, across, rows, columns)
    mosaic = cells.transpose(0, 2, 1, 3).reshape(down * rows, across * columns)
    if sampler == "1d":
        groups = mosaic.reshape(rows * columns, count).T
    else:
        parts = mosaic.reshape(rows, down, columns, across)
        groups = parts.transpose(1, 3, 0, 2).reshape(count, rows * columns)
    return np.pad(groups, ((0, 0), (layout.prefix, 0)), constant_values=NOTHING)


@lru_cache(maxsize=1024)
def tile_groups(plan: TilePlan, layout: TileLayout, sampler: Sampler, groups: int) -> Places:
    """The groups of every tile in the sequence: (T, G, P).

    Args:
        plan: the tiles of an image, with zooms.
        layout: tokens of a tile, before the connector or behind it.
        sampler: how a mosaic is parted.
        groups: G; the last ones are empty where a mosaic has fewer.

    Returns:
        Places in the list of all tokens of the image's tiles, tile by tile, zooming ones behind
        the others. ``NOTHING`` where a tile is not zoomed, and where a finer tile is all padding.
    """
    found = np.full((plan.in_sequence, groups, layout.tokens), NOTHING)
    tile, first = 0, plan.in_sequence
    for view, zoom in zip(plan.views, plan.zooms or (None,) * len(plan.views), strict=True):
        numbers = {} if zoom is None else _number(zoom, first)
        for cell in _cells(view):
            if zoom is not None:
                found[tile] = _groups_of(view, cell, zoom, numbers, layout, sampler, groups)
            tile += 1
        first += len(numbers)
    return found


def _groups_of(
    view: View,
    cell: tuple[int, int],
    zoom: View,
    numbers: dict[tuple[int, int], int],
    layout: TileLayout,
    sampler: Sampler,
    groups: int,
) -> Places:
    """The groups (G, P) of one tile."""
    down, across = (whole // part for whole, part in zip(zoom.grid, view.grid, strict=True))
    inside = [
        numbers.get((cell[0] * down + row, cell[1] * across + column), NOTHING)
        for row in range(down)
        for column in range(across)
    ]
    sampled = sample_mosaic((down, across), layout, sampler)
    finer, token = np.divmod(sampled, max(1, layout.tokens))
    tiles = np.array(inside)[finer]
    places = np.where((sampled < 0) | (tiles < 0), NOTHING, tiles * layout.tokens + token)
    empty = groups - len(places)
    return np.pad(places, ((0, empty), (0, 0)), constant_values=NOTHING)


def arrange_groups(runs: Sequence[Run], groups: Places) -> Places:
    """The groups (G, V) in the order of an image's visual tokens; learnable tokens have none.

    Args:
        runs: what ``arrange`` gave.
        groups: (T, G, P), from ``tile_groups``.
    """
    nothing = np.full((groups.shape[1], 1), NOTHING)
    parts = [
        nothing if run.tile is None else groups[run.tile][:, run.start : run.stop] for run in runs
    ]
    return np.concatenate(parts, 1)


def check_zoom(zoom: Zoom, tiling: TilingSpec) -> None:
    """Refuse to zoom what a tiling does not have.

    Raises:
        RecipeError: gives the reason.
    """
    if zoom.fit == "pad" and isinstance(tiling, FixedTiling) and tiling.fit == "crop":
        raise RecipeError(
            "fit 'pad' shows the whole image, but model.tiling.fit 'crop' leaves its sides out of "
            "the sequence; set fit: stretch, or model.tiling.fit: pad"
        )
    if zoom.of == "overview" and isinstance(tiling, GriddedTiling) and tiling.overview == "none":
        raise RecipeError(
            "of 'overview' zooms the tile of the whole image, but model.tiling.overview is 'none'; "
            "set model.tiling.overview: squash, or of: tiles"
        )


def check_sampler(sampler: Sampler, layout: TileLayout) -> None:
    """Refuse to part tokens that do not lie in a grid.

    Raises:
        RecipeError: gives the reason.
    """
    if layout.whole_image:
        raise RecipeError(
            "the connector samples whole images, so that no tile has tokens of its own to fit "
            "groups to; set model.connector.sampling: per_tile"
        )
    if sampler != "grid" and layout.rows * layout.columns == 0:
        raise RecipeError(
            f"sampler '{sampler}' joins tokens into a mosaic, but the connector's have no place in "
            "the image; set sampler: grid, or take another connector"
        )


def _number(view: View, first: int) -> dict[tuple[int, int], int]:
    """Numbers, from ``first``, of the tiles of a view that are encoded."""
    return {cell: first + number for number, cell in enumerate(_cells(view))}


def _cells(view: View) -> list[tuple[int, int]]:
    """Row and column of the tiles of a view that are encoded."""
    rows, columns = view.grid
    cells = [(row, column) for row in range(rows) for column in range(columns)]
    return [cell for number, cell in enumerate(cells) if number not in view.skipped]
