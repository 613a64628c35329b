"""One merger for each tapped level of a tower: the groups of Qwen3-VL.

Shape suffixes: T tiles, P tokens of a tile before the connector, V visual tokens of a tile,
D width.
"""

from typing import cast

from torch import Tensor, nn

from triptych.connectors.pixel_shuffle import PixelShuffle
from triptych.errors import RecipeError
from triptych.images.layout import TileLayout


class LevelMerger(nn.Sequential):
    """Folds blocks of tokens into channels, then LayerNorm, Linear, GELU, Linear.

    The norm stands behind the folding and the inner width is that of the folded tokens (Qwen3-VL,
    arXiv 2511.21631).

    Args:
        tile: layout of a tile before the connector.
        side: of a block; 1 folds nothing.
        width: channels of a level.
        out: width of the language model.
    """

    def __init__(self, tile: TileLayout, side: int, width: int, out: int) -> None:
        folded = width * side**2
        super().__init__(
            nn.Identity() if side == 1 else PixelShuffle(tile.rows, tile.columns, side),
            nn.LayerNorm(folded, eps=1e-6),
            nn.Linear(folded, folded),
            nn.GELU(),
            nn.Linear(folded, out),
        )

    def forward(self, level: Tensor) -> Tensor:
        """What one tapped block gives (T, P, D) to one group of visual tokens (T, V, D')."""
        return cast(Tensor, super().forward(level))


def check_levels(tile: TileLayout | None, block: int | None) -> None:
    """Refuse a connector whose tokens are not whole blocks of the tower's.

    Args:
        tile: layout of a tile before the connector, where it is known.
        block: side of the block of tokens whose place a visual token has.

    Raises:
        RecipeError: gives the reason.
    """
    why = "a level of the tower is added to the visual token of the same place"
    if block is None:
        raise RecipeError(
            f"{why}, but the connector's tokens have no place; take linear, mlp, vit or "
            "pixel_shuffle"
        )
    if tile is None or block == 1:
        return
    if tile.prefix or tile.rows % block or tile.columns % block:
        raise RecipeError(
            f"{why}, but the connector's blocks of {block} x {block} tokens do not part the "
            f"tower's grid of {tile.rows} x {tile.columns} with {tile.prefix} before it; take "
            "blocks that do, and cls: drop"
        )
