"""The ``pixel_shuffle`` connector: fewer, wider tokens, then an MLP (Idefics3, InternVL)."""

from typing import Literal

from torch import Tensor, nn

from triptych.connectors.base import Chain, Connector, ConnectorSpecBase
from triptych.connectors.mlp import mlp
from triptych.errors import RecipeError
from triptych.images.layout import TileLayout


class PixelShuffle(nn.Module):
    """Fold each ``factor`` x ``factor`` block of a tile's grid into the channels of one token.

    Shape suffixes: T tiles, D width.
    """

    def __init__(self, rows: int, columns: int, factor: int) -> None:
        super().__init__()
        self.rows, self.columns, self.factor = rows, columns, factor

    def forward(self, features: Tensor) -> Tensor:
        """Fold (T, rows * columns, D) into (T, rows * columns / factor^2, D * factor^2).

        The channels of a block follow its rows, then its columns, as in Idefics3.
        """
        tiles, _, width = features.shape
        f = self.factor
        blocks = features.view(tiles, self.rows // f, f, self.columns // f, f, width)
        return blocks.permute(0, 1, 3, 2, 4, 5).reshape(tiles, -1, f * f * width)


class PixelShuffleConnector(ConnectorSpecBase):
    """Pixel shuffle, then an MLP: ``factor``^2 times fewer visual tokens at no loss of channels."""

    kind: Literal["pixel_shuffle"] = "pixel_shuffle"
    """Names this connector."""
    factor: int = 2
    """Side of the block of tokens that becomes one token."""
    layers: int = 2
    """Number of linear layers of the MLP, at least 1."""
    input_norm: bool = False
    """Put a LayerNorm before the first layer, for towers whose features are not normalised."""

    @property
    def block(self) -> int:
        """The blocks that are folded."""
        return self.factor

    def layout(self, tile: TileLayout) -> TileLayout:
        """Layout of a tile's visual tokens.

        Raises:
            RecipeError: the grid is not divisible by ``factor``, or it has prefix tokens.
        """
        if tile.prefix:
            raise RecipeError(
                f"model.connector: pixel_shuffle has no place for the tower's {tile.prefix} prefix "
                "token(s); set 'cls: drop' on the tower"
            )
        if tile.rows % self.factor or tile.columns % self.factor:
            raise RecipeError(
                f"model.connector: pixel_shuffle factor {self.factor} does not divide the tower's "
                f"grid of {tile.rows} x {tile.columns} tokens"
            )
        return TileLayout(tile.rows // self.factor, tile.columns // self.factor)

    def build(self, tile: TileLayout, width: int, out: int) -> Connector:
        """Make the module (T, P, ``width``) -> (T, P / factor^2, ``out``)."""
        self.layout(tile)
        folded = width * self.factor**2
        return Chain(
            PixelShuffle(tile.rows, tile.columns, self.factor),
            mlp(folded, out, layers=self.layers, input_norm=self.input_norm),
        )
