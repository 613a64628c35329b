"""Pooling of blocks of neighbouring tokens.

Shape suffixes: T tiles, P tokens of a tile, R rows, C columns, f side of a block, D width.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from triptych.images.layout import TileLayout

Pooling = Literal["mean", "max"]


def pooled_layout(tile: TileLayout, side: int) -> TileLayout:
    """Layout behind pooling; blocks at the right and lower border may be cut off by it.

    A tile of 27 x 27 tokens pooled by 2 has 14 x 14.
    """
    return TileLayout(-(-tile.rows // side), -(-tile.columns // side), tile.prefix)


def pool_blocks(
    features: Tensor, mask: Tensor | None, tile: TileLayout, side: int, how: Pooling
) -> Tensor:
    """Mean or maximum over each block of ``side`` x ``side`` tokens; prefix tokens are kept.

    Args:
        features: (T, P, D).
        mask: bool (T, P), False on tokens that do not count, or None. A block in which none
            counts gives zeros.
        tile: layout of the P tokens.
        side: of a block.
        how: mean or maximum.

    Returns:
        (T, P', D) with the layout ``pooled_layout(tile, side)``.
    """
    if mask is None:
        mask = torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)
    blocks = _blocks(features[:, tile.prefix :], tile, side)
    counts = _blocks(mask[:, tile.prefix :, None], tile, side)  # False beyond the border too
    if how == "mean":
        total = blocks.masked_fill(~counts, 0).sum(2)
        pooled = total / counts.sum(2).clamp(min=1)
    else:
        pooled = blocks.masked_fill(~counts, -torch.inf).amax(2)
        pooled = pooled.masked_fill(~counts.any(2), 0)
    return torch.cat([features[:, : tile.prefix], pooled], dim=1)


def _blocks(grid: Tensor, tile: TileLayout, side: int) -> Tensor:
    """(T, R * C, D) to (T, blocks, f * f, D), filled up with zeros."""
    rows, columns = -tile.rows % side, -tile.columns % side
    whole: Tensor = F.pad(grid.unflatten(1, (tile.rows, tile.columns)), (0, 0, 0, columns, 0, rows))
    cut: Tensor = whole.unflatten(2, (-1, side)).unflatten(1, (-1, side))  # (T, R', f, C', f, D)
    return cut.transpose(2, 3).flatten(3, 4).flatten(1, 2)
