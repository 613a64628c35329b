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


def merged_side(tile: TileLayout, visual: TileLayout) -> int:
    """Side of the blocks of a tile's tokens that become one visual token each.

    Args:
        tile: layout of a tile before the connector.
        visual: layout of a tile behind it.

    Raises:
        RecipeError: the connector's tokens do not lie in the grid of whole blocks of the tower's.
    """
    if visual == tile:
        return 1
    side = tile.rows // max(1, visual.rows)
    blocks = TileLayout(visual.rows * side, visual.columns * side)
    if visual.whole_image or visual.prefix or blocks != tile:
        raise RecipeError(
            "a level of the tower is added to the visual token of the same place, so the connector "
            f"must keep the grid of {tile.rows} x {tile.columns} tokens or fold whole blocks of "
            f"it, but it gives {visual.prefix} tokens without a place and a grid of "
            f"{visual.rows} x {visual.columns}; take the connector mlp, linear or pixel_shuffle"
        )
    return side
