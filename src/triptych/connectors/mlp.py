"""Connectors that map every token alone: ``linear``, and ``mlp``, which may pool them first.

Shape suffixes: T tiles, P tokens of a tile.
"""

from typing import Literal, cast

from pydantic import Field
from torch import Tensor, nn

from triptych.connectors.base import Chain, Connector, ConnectorSpecBase
from triptych.connectors.pool import Pooling, pool_blocks, pooled_layout
from triptych.images.layout import TileLayout


class LinearConnector(ConnectorSpecBase):
    """One linear layer, then LayerNorm: the projection of DeepSpeed-VisualChat and SPHINX."""

    kind: Literal["linear"] = "linear"
    """Names this connector."""
    norm: bool = True
    """Put a LayerNorm after the linear layer."""

    @property
    def block(self) -> int:
        """Every token stays in its place."""
        return 1

    def layout(self, tile: TileLayout) -> TileLayout:
        """Layout of a tile's visual tokens: the tower's own."""
        return tile

    def build(self, tile: TileLayout, width: int, out: int) -> Connector:
        """Make the module (T, P, ``width``) -> (T, P, ``out``)."""
        linear = nn.Linear(width, out)
        return Chain(linear, nn.LayerNorm(out)) if self.norm else Chain(linear)


class MlpConnector(ConnectorSpecBase):
    """Linear layers with GELU between them: the projector of LLaVA-1.5 when ``layers`` is 2."""

    kind: Literal["mlp"] = "mlp"
    """Names this connector."""
    layers: int = 2
    """Number of linear layers, at least 1."""
    input_norm: bool = False
    """Put a LayerNorm before the first layer, for towers whose features are not normalised."""
    pool: int = Field(1, ge=1)
    """Side of the blocks of neighbouring tokens that are pooled into one before the first layer;
    1 does not pool. To concatenate a block instead, see pixel_shuffle."""
    pooling: Pooling = "mean"
    """Mean or maximum (xGen-MM's baseline) over the tokens of a block that are not padding."""

    @property
    def masks_padding(self) -> bool:
        """A block leaves its padding out."""
        return self.pool > 1

    @property
    def block(self) -> int:
        """The blocks that are pooled."""
        return self.pool

    def layout(self, tile: TileLayout) -> TileLayout:
        """Layout of a tile's visual tokens: the tower's own, or the pooled one."""
        return pooled_layout(tile, self.pool)

    def build(self, tile: TileLayout, width: int, out: int) -> Connector:
        """Make the module (T, P, ``width``) -> (T, P, ``out``), or fewer tokens when pooled."""
        layers = mlp(width, out, layers=self.layers, input_norm=self.input_norm)
        return Chain(*layers) if self.pool == 1 else PooledMlp(self, tile, layers)


class PooledMlp(Connector):
    """Pools blocks of tokens, then maps what is left."""

    def __init__(self, spec: MlpConnector, tile: TileLayout, layers: nn.Sequential) -> None:
        super().__init__()
        self.side, self.pooling, self.tile = spec.pool, spec.pooling, tile
        self.mlp = layers

    def forward(
        self,
        features: Tensor,
        mask: Tensor | None = None,
        tiles_per_image: Tensor | None = None,
    ) -> Tensor:
        """(T, P, D) to (T, P', D'); masked tokens do not count in their block."""
        pooled = pool_blocks(features, mask, self.tile, self.side, self.pooling)
        return cast(Tensor, self.mlp(pooled))


def mlp(width: int, out: int, *, layers: int, input_norm: bool) -> nn.Sequential:
    """Stack ``layers`` linear layers of width ``out`` with GELU between them."""
    modules: list[nn.Module] = [nn.LayerNorm(width)] if input_norm else []
    modules.append(nn.Linear(width, out))
    for _ in range(layers - 1):
        modules += [nn.GELU(), nn.Linear(out, out)]
    return nn.Sequential(*modules)
