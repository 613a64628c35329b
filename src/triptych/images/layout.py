"""TileLayout: how the tokens of one tile are arranged."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TileLayout:
    """Tokens of one tile: ``prefix`` tokens without a place (such as CLS), then a row-major grid.

    A CLIP ViT-L/14 at 336 px that keeps its CLS has ``TileLayout(rows=24, columns=24, prefix=1)``,
    577 tokens.
    """

    rows: int
    columns: int
    prefix: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of one tile, prefix included."""
        return self.prefix + self.rows * self.columns
