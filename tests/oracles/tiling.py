"""Tilings from their definitions: pictures of the canvas, fractions, and lists of names."""

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from triptych.images import TileLayout, TilePlan, TilingSpec
from triptych.images.tiling import Grid


def best_grid(width: int, height: int, size: int, candidates: list[Grid]) -> Grid:
    """Every candidate tried in turn; effective resolution first, then the canvas left unused."""
    best, best_key = candidates[0], None
    for rows, columns in candidates:
        scale = min(Fraction(columns * size, width), Fraction(rows * size, height))
        effective = min(int(width * scale) * int(height * scale), width * height)
        wasted = rows * columns * size * size - effective
        if best_key is None or effective > best_key[0] or (
            effective == best_key[0] and wasted < best_key[1]
        ):  # fmt: skip
            best, best_key = (rows, columns), (effective, wasted)
    return best


def canvas(plan: TilePlan, view: int) -> NDArray[np.bool_]:
    """The canvas of a view, True where a pixel of the image lies."""
    chosen = plan.views[view]
    picture = np.zeros((chosen.grid[0] * plan.size, chosen.grid[1] * plan.size), dtype=np.bool_)
    right, bottom = chosen.left + chosen.scaled[0], chosen.top + chosen.scaled[1]
    picture[max(0, chosen.top) : bottom, max(0, chosen.left) : right] = True
    return picture


def empty_tiles(plan: TilePlan) -> set[int]:
    """Numbers of the tiles of the grid in which no pixel lies."""
    picture, (rows, columns), side = canvas(plan, -1), plan.grid, plan.size
    return {
        row * columns + column
        for row in range(rows)
        for column in range(columns)
        if not picture[row * side : (row + 1) * side, column * side : (column + 1) * side].any()
    }


def tokens_with_pixels(plan: TilePlan, layout: TileLayout, view: int) -> NDArray[np.bool_]:
    """The tokens of a view's canvas that cover a pixel of the image, in part or wholly."""
    picture = canvas(plan, view)
    rows, columns = plan.views[view].grid
    down, across = rows * layout.rows, columns * layout.columns
    found = np.zeros((down, across), dtype=np.bool_)
    ys, xs = np.nonzero(picture)
    for first, last, count, axis in (
        (ys.min(), ys.max() + 1, down, 0),
        (xs.min(), xs.max() + 1, across, 1),
    ):
        side = Fraction(picture.shape[axis], count)
        line = [
            side * token < int(last) and side * (token + 1) > int(first) for token in range(count)
        ]
        if axis == 0:
            found[np.array(line), :] = True
        else:
            found[:, ~np.array(line)] = False
    return found


def rows_by_llava(width: int, height: int, across: int, down: int) -> tuple[int, int]:
    """Rows and columns that are left of a padded ``down`` x ``across`` grid of square tokens.

    The image is centred; half-filled rows are cut on both sides alike (Liu et al., 2024).
    """
    if Fraction(width, height) > Fraction(across, down):
        kept = int(Fraction(across, width) * height)
        return down - 2 * ((down - kept) // 2), across
    kept = int(Fraction(down, height) * width)
    return down, across - 2 * ((across - kept) // 2)


def tokens_in_words(plan: TilePlan, layout: TileLayout, spec: TilingSpec) -> list[str]:
    """The visual tokens of an image without unpadding, each by its name."""
    words: list[str] = []
    tile = 0
    for view in plan.views:
        last = view is plan.views[-1]
        grid: list[list[list[str]]] = []
        for row in range(view.grid[0]):
            grid.append([])
            for column in range(view.grid[1]):
                if row * view.grid[1] + column in view.skipped:
                    skip = ["skip"] if spec.skips != "none" else []
                    grid[-1].append(["start", *skip, "end"] if spec.skips == "tagged" else skip)
                    continue
                own = [f"{tile}.{token}" for token in range(layout.tokens)]
                grid[-1].append(["start", *own, "end"] if spec.tile_tags else own)
                tile += 1
        for line in grid:
            if spec.order == "rows" and last:
                for inner in range(layout.rows):
                    for cell in line:
                        words += cell[inner * layout.columns : (inner + 1) * layout.columns]
                    words += ["separator"] * spec.row_separator
            else:
                words += [word for cell in line for word in cell]
                words += ["separator"] * (spec.row_separator and last)
    return words
