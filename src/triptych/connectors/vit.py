"""The ``vit`` connector: one encoder layer, then a projection (DeepSpeed-VisualChat).

Shape suffixes: T tiles, P tokens of a tile, H heads, D width.
"""

from typing import Literal, cast

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from triptych.connectors.base import Connector, ConnectorSpecBase
from triptych.errors import RecipeError
from triptych.images.layout import TileLayout


class VitConnector(ConnectorSpecBase):
    """One pre-norm encoder layer over the tokens of a tile, then Linear and LayerNorm."""

    kind: Literal["vit"] = "vit"
    """Names this connector."""
    heads: int = Field(16, ge=1)
    """Attention heads; they divide the width of the towers."""
    ff_multiple: int = Field(4, ge=1)
    """Hidden width of the feed-forward part, as a multiple of the width of the towers."""

    @property
    def masks_padding(self) -> bool:
        """Padding is never read."""
        return True

    @property
    def block(self) -> int:
        """Every token stays in its place."""
        return 1

    def layout(self, tile: TileLayout) -> TileLayout:
        """Layout of a tile's visual tokens: the tower's own."""
        return tile

    def build(self, tile: TileLayout, width: int, out: int) -> Connector:
        """Make the module (T, P, ``width``) -> (T, P, ``out``).

        Raises:
            RecipeError: the heads do not divide ``width``.
        """
        if width % self.heads:
            raise RecipeError(
                f"model.connector: {self.heads} heads do not divide the towers' width of {width}"
            )
        return Vit(width, out, self.heads, self.ff_multiple)


class Vit(Connector):
    """An encoder layer as in CLIP, then the projection."""

    def __init__(self, width: int, out: int, heads: int, ff_multiple: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.mixed = nn.Linear(width, width)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, ff_multiple * width),
            nn.GELU(),
            nn.Linear(ff_multiple * width, width),
        )
        self.out = nn.Sequential(nn.Linear(width, out), nn.LayerNorm(out))

    def forward(
        self,
        features: Tensor,
        mask: Tensor | None = None,
        tiles_per_image: Tensor | None = None,
    ) -> Tensor:
        """(T, P, D) to (T, P, D'); no token reads a masked one."""
        rows = self.query_key_value(self.attention_norm(features))
        query, key, value = rows.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        allowed = None if mask is None else mask[:, None, None]  # (T, 1, 1, P)
        read = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        features = features + self.mixed(read.transpose(1, 2).flatten(2))
        features = features + self.feed_forward(features)
        return cast(Tensor, self.out(features))
