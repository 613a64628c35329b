"""The vision encoder of Qwen-VL, slowly: one tile, one head, one query at a time.

Weights by the names under which Qwen-VL publishes them.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]


def encode(weights: Weights, pixels: Tensor, *, patch: int, heads: int, out_heads: int) -> Tensor:
    """Normalised pixels (3, S, S) of one tile to tokens (Q, D)."""
    side = pixels.shape[-1] // patch
    rows = []
    for top in range(side):
        for left in range(side):
            cut = pixels[:, top * patch : (top + 1) * patch, left * patch : (left + 1) * patch]
            rows.append(weights["conv1.weight"].flatten(1) @ cut.flatten())
    x = torch.stack(rows) + stretch(weights["positional_embedding"], side)
    x = norm(weights, "ln_pre", x)
    depth = len({key.split(".")[2] for key in weights if key.startswith("transformer.")})
    for number in range(depth):
        name = f"transformer.resblocks.{number}"
        x = x + attention(weights, name, norm(weights, f"{name}.ln_1", x), heads)
        hidden = F.gelu(linear(weights, f"{name}.mlp.c_fc", norm(weights, f"{name}.ln_2", x)))
        x = x + linear(weights, f"{name}.mlp.c_proj", hidden)
    return norm(weights, "ln_post", resample(weights, x, side, out_heads))


def attention(weights: Weights, name: str, x: Tensor, heads: int) -> Tensor:
    mixed = linear(weights, f"{name}.attn.in_proj", x)
    depth = x.shape[1] // heads
    parts = []
    for head in range(heads):
        own = mixed[:, 3 * head * depth : 3 * (head + 1) * depth]
        query, key, value = own[:, :depth], own[:, depth : 2 * depth], own[:, 2 * depth :]
        parts.append((query @ key.T / math.sqrt(depth)).softmax(-1) @ value)
    return linear(weights, f"{name}.attn.out_proj", torch.cat(parts, 1))


def resample(weights: Weights, x: Tensor, side: int, heads: int) -> Tensor:
    places = weights["attn_pool.pos_embed"]
    x = norm(weights, "attn_pool.ln_kv", x @ weights["attn_pool.kv_proj.weight"].T)
    asks = norm(weights, "attn_pool.ln_q", weights["attn_pool.query"]) + places
    given = (asks, x + stretch(places, side), x)
    width = places.shape[1]
    query, key, value = (
        part @ weights["attn_pool.attn.in_proj_weight"][at * width : (at + 1) * width].T
        + weights["attn_pool.attn.in_proj_bias"][at * width : (at + 1) * width]
        for at, part in enumerate(given)
    )
    depth = width // heads
    parts = []
    for head in range(heads):
        at = slice(head * depth, (head + 1) * depth)
        scores = query[:, at] @ key[:, at].T / math.sqrt(depth)
        parts.append(scores.softmax(-1) @ value[:, at])
    return linear(weights, "attn_pool.attn.out_proj", torch.cat(parts, 1))


def stretch(places: Tensor, side: int) -> Tensor:
    own = math.isqrt(len(places))
    if own == side:
        return places
    grid = places.reshape(1, own, own, -1).permute(0, 3, 1, 2)
    wide = F.interpolate(grid, (side, side), mode="bicubic", align_corners=False)
    return wide.permute(0, 2, 3, 1).reshape(side * side, -1)


def sine_places(side: int, width: int) -> Tensor:
    """(Q, D): sines, then cosines of the column, then the same of the row."""
    table = torch.zeros(side * side, width)
    quarter = width // 4
    for row in range(side):
        for column in range(side):
            for k in range(quarter):
                rate = 10000 ** (-k / quarter)
                for half, place in enumerate((column, row)):
                    at = 2 * half * quarter + k
                    table[row * side + column, at] = math.sin(place * rate)
                    table[row * side + column, at + quarter] = math.cos(place * rate)
    return table


def linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def norm(weights: Weights, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scale = (x.var(-1, keepdim=True, unbiased=False) + 1e-6).sqrt()
    return centred / scale * weights[f"{name}.weight"] + weights[f"{name}.bias"]
