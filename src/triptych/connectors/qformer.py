"""The ``qformer`` connector: learned queries read the tokens of the towers (BLIP-2).

Shape suffixes: T tiles (images when whole images are sampled), P tokens, N queries, D width.
"""

from typing import Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from triptych.connectors.base import Connector, ConnectorSpecBase
from triptych.connectors.sampling import Places, Sampling, join_tiles, latent_layout
from triptych.images.layout import TileLayout


class QFormerConnector(ConnectorSpecBase):
    """Queries that attend to each other and, in every other layer, to the tokens of the towers."""

    kind: Literal["qformer"] = "qformer"
    """Names this connector."""
    queries: int = Field(32, ge=1)
    """Visual tokens of a tile, or of an image where whole images are sampled."""
    layers: int = Field(12, ge=1)
    """Transformer layers."""
    hidden: int = Field(768, ge=1)
    """Width of a query, a multiple of the heads."""
    heads: int = Field(12, ge=1)
    """Attention heads."""
    ff_multiple: int = Field(4, ge=1)
    """Hidden width of the feed-forward part, as a multiple of ``hidden``."""
    cross_every: int = Field(2, ge=1)
    """Every so many layers, from the first on, the queries read the tokens of the towers."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout of states and of attention in training; BLIP-2 has 0.1."""
    sampling: Sampling = "per_tile"
    """Sample each tile alone, or all tiles of an image together."""
    positions: bool = False
    """Add learned vectors to the normalised tokens, one for each place of a tile; for towers that
    do not write places into their tokens themselves, such as convolutions."""

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} is not a multiple of heads {self.heads}")
        return self

    @property
    def masks_padding(self) -> bool:
        """Padding is never read."""
        return True

    def layout(self, tile: TileLayout) -> TileLayout:
        """Layout of the visual tokens: queries without a place."""
        return latent_layout(self.queries, self.sampling)

    def build(self, tile: TileLayout, width: int, out: int) -> Connector:
        """Make the module (T, P, ``width``) -> (T, N, ``out``), or (I, N, ``out``)."""
        return QFormer(self, tile, width, out)


class QFormer(Connector):
    """The Q-Former of transformers without its text part, then a linear layer."""

    def __init__(self, spec: QFormerConnector, tile: TileLayout, width: int, out: int) -> None:
        super().__init__()
        self.whole_image = spec.sampling == "whole_image"
        self.places = Places(tile, width) if spec.positions else nn.Identity()
        self.queries = nn.Parameter(0.02 * torch.randn(1, spec.queries, spec.hidden))
        self.reader = Blip2QFormerModel(
            Blip2QFormerConfig(
                hidden_size=spec.hidden,
                num_hidden_layers=spec.layers,
                num_attention_heads=spec.heads,
                intermediate_size=spec.ff_multiple * spec.hidden,
                hidden_dropout_prob=spec.dropout,
                attention_probs_dropout_prob=spec.dropout,
                cross_attention_frequency=spec.cross_every,
                encoder_hidden_size=width,
                use_qformer_text_input=False,
            )
        )
        self.out = nn.Linear(spec.hidden, out)

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
        read = self.reader(
            query_embeds=self.queries.expand(len(features), -1, -1),
            encoder_hidden_states=features,
            encoder_attention_mask=mask,
        )
        return cast(Tensor, self.out(read.last_hidden_state))
