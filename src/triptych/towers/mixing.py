"""Bringing the tokens of several towers to one layout, so that their channels can be joined.

SPHINX-X (Liu et al., 2024) joins DINOv2 and a CLIP-ConvNeXt in this way: both look at the same
tiles, and the map of the ConvNeXt, which has no CLS token, gets its mean in the place of one.

Shape suffixes: T tiles, P tokens of a tile, R rows, C columns, D width.
"""

from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from triptych.errors import RecipeError
from triptych.images.layout import TileLayout

TowerGrid: TypeAlias = Literal["largest", "smallest"] | Annotated[int, Field(ge=1)]


def common_layout(layouts: Sequence[TileLayout], grid: TowerGrid) -> TileLayout:
    """The layout that the tokens of all towers are brought to.

    Args:
        layouts: of the towers.
        grid: the largest or the smallest of their grids, or the side of a square one.

    Raises:
        RecipeError: towers with prefix tokens do not have the same number of them.
    """
    prefixes = {layout.prefix for layout in layouts} - {0}
    if len(prefixes) > 1:
        raise RecipeError(
            f"model.towers: the towers keep {sorted(prefixes)} prefix tokens; towers that keep any "
            "must keep the same number"
        )
    prefix = max(prefixes, default=0)
    if isinstance(grid, int):
        return TileLayout(grid, grid, prefix)
    sizes = [(layout.rows, layout.columns) for layout in layouts]
    choose = max if grid == "largest" else min
    rows, columns = choose(sizes, key=lambda size: size[0] * size[1])
    return TileLayout(rows, columns, prefix)


def align(tokens: Tensor, own: TileLayout, common: TileLayout) -> Tensor:
    """Bring the tokens of a tower to the common layout.

    A token of the new grid is the mean of the tokens that its area touches (adaptive average
    pooling). A grid that is a whole number of times smaller than the old one averages blocks, one
    that is a whole number of times larger repeats tokens. Where CLS tokens are kept and the tower
    has none, the mean of its own grid stands in.

    Args:
        tokens: (T, P, D) with the layout ``own``.
        own: layout of the tower.
        common: from ``common_layout``.

    Returns:
        (T, P', D) with the layout ``common``.
    """
    if own == common:
        return tokens
    prefix, grid = tokens[:, : own.prefix], tokens[:, own.prefix :]
    if common.prefix and not own.prefix:
        prefix = grid.mean(1, keepdim=True).expand(-1, common.prefix, -1)
    if (own.rows, own.columns) != (common.rows, common.columns):
        maps = grid.unflatten(1, (own.rows, own.columns)).movedim(-1, 1)  # (T, D, R, C)
        pooled = F.adaptive_avg_pool2d(maps, (common.rows, common.columns))
        grid = pooled.flatten(2).transpose(1, 2)
    return torch.cat([prefix, grid], dim=1)
