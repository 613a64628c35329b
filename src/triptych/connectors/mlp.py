"""Connectors that map every token alone: ``linear`` and ``mlp``.

Shape suffixes: T tiles, P tokens of a tile.
"""

from typing import Literal

from torch import nn

from triptych.connectors.base import Chain, Connector
from triptych.images.layout import TileLayout
from triptych.spec import Spec


class LinearConnector(Spec):
    """One linear layer, then LayerNorm: the projection of DeepSpeed-VisualChat and SPHINX."""

    kind: Literal["linear"] = "linear"
    """Names this connector."""
    norm: bool = True
    """Put a LayerNorm after the linear layer."""

    def layout(self, tile: TileLayout) -> TileLayout:
        """Layout of a tile's visual tokens: the tower's own."""
        return tile

    def build(self, tile: TileLayout, width: int, out: int) -> Connector:
        """Make the module (T, P, ``width``) -> (T, P, ``out``)."""
        linear = nn.Linear(width, out)
        return Chain(linear, nn.LayerNorm(out)) if self.norm else Chain(linear)


class MlpConnector(Spec):
    """Linear layers with GELU between them: the projector of LLaVA-1.5 when ``layers`` is 2."""

    kind: Literal["mlp"] = "mlp"
    """Names this connector."""
    layers: int = 2
    """Number of linear layers, at least 1."""
    input_norm: bool = False
    """Put a LayerNorm before the first layer, for towers whose features are not normalised."""

    def layout(self, tile: TileLayout) -> TileLayout:
        """Layout of a tile's visual tokens: the tower's own."""
        return tile

    def build(self, tile: TileLayout, width: int, out: int) -> Connector:
        """Make the module (T, P, ``width``) -> (T, P, ``out``)."""
        return Chain(*mlp(width, out, layers=self.layers, input_norm=self.input_norm))


def mlp(width: int, out: int, *, layers: int, input_norm: bool) -> nn.Sequential:
    """Stack ``layers`` linear layers of width ``out`` with GELU between them."""
    modules: list[nn.Module] = [nn.LayerNorm(width)] if input_norm else []
    modules.append(nn.Linear(width, out))
    for _ in range(layers - 1):
        modules += [nn.GELU(), nn.Linear(out, out)]
    return nn.Sequential(*modules)
