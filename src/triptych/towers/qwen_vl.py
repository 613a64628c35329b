"""The vision encoder of Qwen-VL (Bai et al., 2023): a ViT-bigG and a resampler of one layer.

DeepSpeed-VisualChat takes it without the last projection: 256 tokens of 4096 channels for a tile of
448 pixels, from 1.9 billion parameters.

Shape suffixes: T tiles, P patches of a tile, Q queries, H heads, D width, G side of a grid.
"""

from math import isqrt
from pathlib import Path
from typing import Literal, Self, cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from safetensors import safe_open
from torch import Tensor, nn

from triptych.errors import CheckpointError
from triptych.images.layout import TileLayout
from triptych.towers.base import Tower, TowerSpecBase
from triptych.towers.families import CLIP_MEAN, CLIP_STD

_PREFIX = "transformer.visual."
_EPS = 1e-6


class QwenVlTower(TowerSpecBase):
    """ViT-bigG/14 of Qwen-VL with its resampler, without the projection behind it."""

    kind: Literal["qwen_vl"] = "qwen_vl"
    """Names this tower."""

    source: str | None = None
    """Folder with the safetensors of Qwen-VL, or of its visual part alone; weights are random
    without it."""

    size: int = Field(448, ge=1)
    """Side of a tile in pixels, a multiple of the patch."""

    patch: int = Field(14, ge=1)
    """Side in pixels of a patch."""

    hidden: int = Field(1664, ge=1)
    """Channels of a patch, a multiple of the heads."""

    depth: int = Field(48, ge=1)
    """Number of transformer blocks."""

    heads: int = Field(16, ge=1)
    """Attention heads of a block."""

    feed_forward: int = Field(8192, ge=1)
    """Inner channels of the feed-forward part of a block."""

    positions: int = Field(16, ge=1)
    """Side of the grid of learned positions, which is interpolated to that of the patches."""

    grid: int = Field(16, ge=1)
    """Side of the grid of queries: 16 gives 256 tokens."""

    out: int = Field(4096, ge=4, multiple_of=4)
    """Channels of a token."""

    out_heads: int = Field(32, ge=1)
    """Attention heads of the resampler."""

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        pairs = {
            "size": (self.size, "patch", self.patch),
            "hidden": (self.hidden, "heads", self.heads),
            "out": (self.out, "out_heads", self.out_heads),
        }
        for name, (value, other, divisor) in pairs.items():
            if value % divisor:
                raise ValueError(f"{name} {value} is not a multiple of {other} {divisor}")
        return self

    def resolve(self) -> Self:
        """Nothing has to be read."""
        return self

    def build(self) -> Tower:
        """The encoder with random weights."""
        return QwenVl(self).train()

    def load(self, tower: Tower) -> None:
        """Copy the weights of the folder."""
        if self.source is None:
            return
        files = sorted(Path(self.source).glob("*.safetensors"))
        if not files:
            raise CheckpointError(
                f"tower {self.source}: no safetensors in this folder; save the shards of "
                "Qwen-VL-Chat there, or its visual part alone"
            )
        given: dict[str, Tensor] = {}
        for file in files:
            with safe_open(file, framework="pt") as shard:
                for key in shard.keys():  # noqa: SIM118  # not a dictionary
                    plain = key.removeprefix(_PREFIX)
                    if plain != key or len(files) == 1:
                        given[_rename(plain)] = shard.get_tensor(key)
        needed = tower.state_dict().keys()
        missing = sorted(needed - given.keys())
        if missing:
            raise CheckpointError(
                f"tower {self.source}: {len(missing)} of {len(needed)} weights are not there, "
                f"first {missing[0]}"
            )
        tower.load_state_dict({key: given[key] for key in needed})

    @property
    def layout(self) -> TileLayout:
        """The grid of queries."""
        return TileLayout(rows=self.grid, columns=self.grid)

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.out

    @property
    def tile_size(self) -> int:
        """Side of a tile in pixels."""
        return self.size


class QwenVl(Tower):
    """Patches, blocks, and queries that read what comes out of them."""

    def __init__(self, spec: QwenVlTower) -> None:
        super().__init__()
        self.size, self.width, self.layout = spec.tile_size, spec.width, spec.layout
        self.mean, self.std = CLIP_MEAN, CLIP_STD
        self.identity = spec.identity("source")
        self.patches = nn.Conv2d(3, spec.hidden, spec.patch, spec.patch, bias=False)
        self.positions = nn.Parameter(
            spec.hidden**-0.5 * torch.randn(spec.positions**2, spec.hidden)
        )
        self.norm_before = nn.LayerNorm(spec.hidden, eps=_EPS)
        self.blocks = nn.ModuleList(
            _Block(spec.hidden, spec.heads, spec.feed_forward) for _ in range(spec.depth)
        )
        self.resampler = _Resampler(spec)
        self.norm = nn.LayerNorm(spec.out, eps=_EPS)

    def encode(self, pixels: Tensor) -> Tensor:
        """Encode normalised pixels (T, 3, size, size) into tokens (T, Q, D)."""
        states = self.patches(pixels).flatten(2).transpose(1, 2)
        states = self.norm_before(states + _stretch(self.positions, states.shape[1]))
        for block in self.blocks:
            states = block(states)
        return cast(Tensor, self.norm(self.resampler(states)))


class _Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int, feed_forward: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width, eps=_EPS)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.mixed = nn.Linear(width, width)
        self.feed_forward_norm = nn.LayerNorm(width, eps=_EPS)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, feed_forward), nn.GELU(), nn.Linear(feed_forward, width)
        )

    def forward(self, states: Tensor) -> Tensor:
        """(T, P, D) to (T, P, D)."""
        rows = self.query_key_value(self.attention_norm(states))
        # The weights are stored head by head: query, key and value of one, then of the next.
        query, key, value = rows.unflatten(-1, (self.heads, 3, -1)).permute(3, 0, 2, 1, 4)
        read = F.scaled_dot_product_attention(query, key, value)
        states = states + self.mixed(read.transpose(1, 2).flatten(2))
        return states + cast(Tensor, self.feed_forward(self.feed_forward_norm(states)))


class _Resampler(nn.Module):
    """Queries on a grid that read all patches once; places are added to queries and keys."""

    def __init__(self, spec: QwenVlTower) -> None:
        super().__init__()
        width = spec.out
        self.heads = spec.out_heads
        self.queries = nn.Parameter(0.02 * torch.randn(spec.grid**2, width))
        self.register_buffer("places", sine_places(spec.grid, width))
        self.keys = nn.Linear(spec.hidden, width, bias=False)
        self.query_norm = nn.LayerNorm(width, eps=_EPS)
        self.key_norm = nn.LayerNorm(width, eps=_EPS)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.mixed = nn.Linear(width, width)

    def forward(self, states: Tensor) -> Tensor:
        """Patches (T, P, D) to tokens (T, Q, D')."""
        places = cast(Tensor, self.places)
        values = self.key_norm(self.keys(states))
        asks = self.query_norm(self.queries) + places
        inputs = (asks[None], values + _stretch(places, states.shape[1]), values)
        weights = self.query_key_value.weight.chunk(3)
        biases = self.query_key_value.bias.chunk(3)
        query, key, value = (
            F.linear(given, weight, bias).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for given, weight, bias in zip(inputs, weights, biases, strict=True)
        )
        query = query.expand(len(states), -1, -1, -1)
        read = F.scaled_dot_product_attention(query, key, value)
        return cast(Tensor, self.mixed(read.transpose(1, 2).flatten(2)))


def sine_places(side: int, width: int) -> Tensor:
    """Sines and cosines (G * G, D) of column, in the first half of the channels, and of row."""
    rates = 10000 ** -(torch.arange(width // 4) / (width / 4))
    angles = torch.arange(side)[:, None] * rates
    axis = torch.cat([angles.sin(), angles.cos()], 1)  # (G, D / 2)
    columns, rows = axis.repeat(side, 1), axis.repeat_interleave(side, 0)
    return torch.cat([columns, rows], 1)


def _stretch(places: Tensor, tokens: int) -> Tensor:
    """Places (G * G, D) interpolated to another square grid."""
    if len(places) == tokens:
        return places
    side, wanted = isqrt(len(places)), isqrt(tokens)
    grid = places.float().unflatten(0, (side, side)).permute(2, 0, 1)[None]
    grid = F.interpolate(grid, (wanted, wanted), mode="bicubic", align_corners=False)
    return grid[0].flatten(1).T.to(places.dtype)


_NAMES = {
    "conv1.weight": "patches.weight",
    "positional_embedding": "positions",
    "ln_pre.": "norm_before.",
    "ln_post.": "norm.",
    "transformer.resblocks.": "blocks.",
    "attn_pool.query": "resampler.queries",
    "attn_pool.pos_embed": "resampler.places",
    "attn_pool.kv_proj.": "resampler.keys.",
    "attn_pool.ln_q.": "resampler.query_norm.",
    "attn_pool.ln_kv.": "resampler.key_norm.",
    "attn_pool.attn.in_proj_": "resampler.query_key_value.",
    "attn_pool.attn.out_proj.": "resampler.mixed.",
    ".ln_1.": ".attention_norm.",
    ".attn.in_proj.": ".query_key_value.",
    ".attn.out_proj.": ".mixed.",
    ".ln_2.": ".feed_forward_norm.",
    ".mlp.c_fc.": ".feed_forward.0.",
    ".mlp.c_proj.": ".feed_forward.2.",
}


def _rename(key: str) -> str:
    """Qwen-VL's name of a weight to ours."""
    for theirs, ours in _NAMES.items():
        key = key.replace(theirs, ours)
    return key
