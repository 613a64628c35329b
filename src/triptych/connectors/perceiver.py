"""The ``perceiver`` connector: a fixed number of latents read the tokens of the towers.

The resampler of Flamingo (Alayrac et al., 2022) in the form of xGen-MM (Xue et al., 2024).

Shape suffixes: T tiles (images when whole images are sampled), P tokens, N latents, K keys,
H heads, D width of the towers.
"""

from typing import Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from triptych.connectors.base import Connector, ConnectorSpecBase
from triptych.connectors.sampling import Places, Sampling, join_tiles, latent_layout
from triptych.images.layout import TileLayout


class PerceiverConnector(ConnectorSpecBase):
    """Latents that attend to the tokens of a tile, or of a whole image, and to each other."""

    kind: Literal["perceiver"] = "perceiver"
    """Names this connector."""
    depth: int = Field(6, ge=1)
    """Layers, each an attention and a feed-forward part."""
    heads: int = Field(16, ge=1)
    """Attention heads."""
    head_width: int = Field(96, ge=1)
    """Channels of a head; heads x head_width may differ from the width of the towers."""
    latents: int = Field(128, ge=1)
    """Visual tokens of a tile, or of an image where whole images are sampled."""
    ff_multiple: int = Field(4, ge=1)
    """Hidden width of the feed-forward part, as a multiple of the width of the towers."""
    sampling: Sampling = "per_tile"
    """Sample each tile alone, or all tiles of an image together: its tokens are then the same in
    number however many tiles it has."""
    positions: bool = False
    """Add learned vectors to the normalised tokens, one for each place of a tile; for towers that
    do not write places into their tokens themselves, such as convolutions."""

    @property
    def masks_padding(self) -> bool:
        """Padding is never read."""
        return True

    def layout(self, tile: TileLayout) -> TileLayout:
        """Layout of the visual tokens: latents without a place."""
        return latent_layout(self.latents, self.sampling)

    def build(self, tile: TileLayout, width: int, out: int) -> Connector:
        """Make the module (T, P, ``width``) -> (T, N, ``out``), or (I, N, ``out``)."""
        return Perceiver(self, tile, width, out)


class Perceiver(Connector):
    """Layers of latents, then LayerNorm and the projection to the language model's width.

    Tiles that are sampled together are not told apart. Within a tile, places are known from what
    the tower puts into its tokens, or by ``positions``.
    """

    def __init__(self, spec: PerceiverConnector, tile: TileLayout, width: int, out: int) -> None:
        super().__init__()
        self.whole_image = spec.sampling == "whole_image"
        self.places = Places(tile, width) if spec.positions else nn.Identity()
        self.latents = nn.Parameter(torch.randn(spec.latents, width))
        self.layers = nn.ModuleList(
            PerceiverLayer(width, spec.heads, spec.head_width, spec.ff_multiple)
            for _ in range(spec.depth)
        )
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, out)

    def forward(
        self,
        features: Tensor,
        mask: Tensor | None = None,
        tiles_per_image: Tensor | None = None,
    ) -> Tensor:
        """(T, P, D) to (T, N, D'), or to (I, N, D'); masked tokens have no effect at all."""
        features = self.places(features)
        if self.whole_image and tiles_per_image is not None:
            features, mask = join_tiles(features, mask, tiles_per_image)
        latents = self.latents.expand(len(features), -1, -1)
        allowed = None
        if mask is not None:
            allowed = F.pad(mask, (0, latents.shape[1]), value=True)[:, None, None]  # (T, 1, 1, K)
        for layer in self.layers:
            latents = layer(latents, features, allowed)
        return cast(Tensor, self.out(self.norm(latents)))


class PerceiverLayer(nn.Module):
    """Latents attend to tokens and latents, then pass a feed-forward part; no linear has a bias."""

    def __init__(self, width: int, heads: int, head_width: int, ff_multiple: int) -> None:
        super().__init__()
        inner = heads * head_width
        self.heads = heads
        self.token_norm = nn.LayerNorm(width)
        self.latent_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, inner, bias=False)
        self.key_value = nn.Linear(width, 2 * inner, bias=False)
        self.out = nn.Linear(inner, width, bias=False)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, ff_multiple * width, bias=False),
            nn.GELU(),
            nn.Linear(ff_multiple * width, width, bias=False),
        )

    def forward(self, latents: Tensor, tokens: Tensor, allowed: Tensor | None) -> Tensor:
        """Latents (T, N, D) that read tokens (T, P, D) where ``allowed`` (T, 1, 1, P + N)."""
        own = self.latent_norm(latents)
        query = self.query(own).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (T, H, N, ...)
        keys = torch.cat([self.token_norm(tokens), own], dim=1)
        rows = self.key_value(keys).unflatten(-1, (2, self.heads, -1))
        key, value = rows.permute(2, 0, 3, 1, 4)  # each (T, H, K, ...)
        read = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        latents = latents + self.out(read.transpose(1, 2).flatten(2))
        return latents + cast(Tensor, self.feed_forward(latents))
