"""A small tower that is trained from scratch.

Shape suffixes: T tiles, P tokens of a tile, D width, H heads, K channels of a head.
"""

from collections.abc import Iterator
from typing import Literal, Self, cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from triptych.images.layout import TileLayout
from triptych.towers.base import BlockTower, Tower, TowerSpecBase


class SmallTower(TowerSpecBase):
    """A convolutional stem and a few transformer blocks, about a million parameters by default."""

    kind: Literal["small"] = "small"
    """Names this tower."""

    size: int = Field(64, ge=4)
    """Side of a tile in pixels, a multiple of the patch."""

    patch: Literal[2, 4, 8, 16, 32] = 8
    """Side in pixels of what becomes one token."""

    hidden: int = Field(128, ge=8)
    """Channels of a token, a multiple of the heads."""

    depth: int = Field(4, ge=0)
    """Number of transformer blocks."""

    heads: int = Field(4, ge=1)
    """Attention heads of a block."""

    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Mean of the pixels in the 0..1 range, per channel."""

    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Standard deviation of the pixels in the 0..1 range, per channel."""

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.size % self.patch:
            raise ValueError(f"size {self.size} is not a multiple of patch {self.patch}")
        if self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} is not a multiple of heads {self.heads}")
        return self

    def resolve(self) -> Self:
        """Nothing has to be read."""
        return self

    def build(self) -> Tower:
        """A tower with random weights."""
        return SmallViT(self)

    def load(self, tower: Tower) -> None:
        """Nothing is pretrained."""

    @property
    def layout(self) -> TileLayout:
        """A square grid without prefix."""
        return TileLayout(rows=self.size // self.patch, columns=self.size // self.patch)

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.hidden

    @property
    def enterable(self) -> int:
        """The depth."""
        return self.depth

    @property
    def tile_size(self) -> int:
        """Side of a tile in pixels."""
        return self.size


class SmallViT(BlockTower):
    """Early convolutions (Xiao et al., 2021) before pre-norm transformer blocks."""

    def __init__(self, spec: SmallTower) -> None:
        super().__init__()
        self.size, self.width, self.layout = spec.size, spec.hidden, spec.layout
        self.mean, self.std = spec.mean, spec.std
        self.identity = spec.identity()
        self.stem = _stem(spec.patch, spec.hidden)
        self.position = nn.Parameter(0.02 * torch.randn(1, spec.layout.tokens, spec.hidden))
        self.depth = spec.depth
        self.blocks = nn.ModuleList(Block(spec.hidden, spec.heads) for _ in range(spec.depth))
        self.norm = nn.LayerNorm(spec.hidden)

    def encode(self, pixels: Tensor) -> Tensor:
        """Encode normalised pixels (T, 3, size, size) into tokens (T, P, D)."""
        return self.leave(self.embed(pixels), 0)

    def embed(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (T, 3, size, size) to what enters block 0 (T, P, D)."""
        return cast(Tensor, self.stem(pixels)).flatten(2).transpose(1, 2) + self.position

    def walk(self, states: Tensor, first: int, stop: int) -> Iterator[Tensor]:
        """States (T, P, D) behind each of the blocks from ``first`` to before ``stop``."""
        for block in list(self.blocks)[first:stop]:
            states = block(states)
            yield states

    def finish(self, states: Tensor) -> Tensor:
        """Through the last norm: (T, P, D)."""
        return cast(Tensor, self.norm(states))

    def pick(self, states: Tensor) -> Tensor:
        """All of them: (T, P, D)."""
        return states


class Block(nn.Module):
    """A pre-norm transformer block without masks."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(T, P, D) to (T, P, D)."""
        rows = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = rows.permute(2, 0, 3, 1, 4)  # each (T, H, P, K)
        mixed = F.scaled_dot_product_attention(query, key, value)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + cast(Tensor, self.mlp(self.mlp_norm(x)))


def _stem(patch: int, width: int) -> nn.Sequential:
    """Stride-2 convolutions, channels doubling up to ``width``, then a 1x1 projection."""
    halvings = patch.bit_length() - 1
    layers: list[nn.Module] = []
    channels = 3
    for step in range(halvings):
        wider = max(8, width >> (halvings - 1 - step))
        layers += [nn.Conv2d(channels, wider, 3, stride=2, padding=1), nn.GroupNorm(1, wider)]
        layers += [nn.GELU()]
        channels = wider
    return nn.Sequential(*layers, nn.Conv2d(channels, width, 1))
