"""Connectors token by token, from their definitions; masked tokens are never looked at."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]


def norm(row: Tensor, weights: Weights, name: str) -> Tensor:
    centred = row - row.mean()
    scaled = centred / torch.sqrt((centred**2).mean() + 1e-5)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(row: Tensor, weights: Weights, name: str) -> Tensor:
    out = weights[f"{name}.weight"] @ row
    return out + weights[f"{name}.bias"] if f"{name}.bias" in weights else out


def gelu(row: Tensor) -> Tensor:
    return row * 0.5 * (1 + torch.erf(row / math.sqrt(2)))


def attend(query: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
    scores = [float(query @ key) / math.sqrt(len(query)) for key in keys]
    weights = [math.exp(score - max(scores)) for score in scores]
    total = sum(weights)
    mixed = torch.zeros_like(values[0])
    for weight, value in zip(weights, values, strict=True):
        mixed += weight / total * value
    return mixed


def perceive(tokens: list[Tensor], weights: Weights, depth: int, heads: int) -> Tensor:
    """Visual tokens (N, D') of the tokens that are there (no mask is needed here)."""
    latents = list(weights["latents"])
    for layer in range(depth):
        at = f"layers.{layer}"
        own = [norm(latent, weights, f"{at}.latent_norm") for latent in latents]
        seen = [norm(token, weights, f"{at}.token_norm") for token in tokens] + own
        key_values = [linear(row, weights, f"{at}.key_value").chunk(2) for row in seen]
        for n, latent in enumerate(latents):
            queries = linear(own[n], weights, f"{at}.query").chunk(heads)
            read = [
                attend(
                    queries[h],
                    [key.chunk(heads)[h] for key, _ in key_values],
                    [value.chunk(heads)[h] for _, value in key_values],
                )
                for h in range(heads)
            ]
            latent = latent + linear(torch.cat(read), weights, f"{at}.out")
            inner = norm(latent, weights, f"{at}.feed_forward.0")
            inner = gelu(linear(inner, weights, f"{at}.feed_forward.1"))
            latents[n] = latent + linear(inner, weights, f"{at}.feed_forward.3")
    return torch.stack(
        [linear(norm(latent, weights, "norm"), weights, "out") for latent in latents]
    )


def pool(
    tile: Tensor, kept: list[bool], *, rows: int, columns: int, prefix: int, side: int, how: str
) -> Tensor:
    """Pool the blocks of one tile (P, D); ``kept`` says which tokens count."""
    out = list(tile[:prefix])
    for top in range(0, rows, side):
        for left in range(0, columns, side):
            places = [
                prefix + r * columns + c
                for r in range(top, min(top + side, rows))
                for c in range(left, min(left + side, columns))
            ]
            block = [tile[place] for place in places if kept[place]]
            if not block:
                out.append(torch.zeros_like(tile[0]))
            elif how == "mean":
                out.append(torch.stack(block).mean(0))
            else:
                out.append(torch.stack(block).max(0).values)
    return torch.stack(out)


def align_grid(grid: Tensor, rows: int, columns: int, new_rows: int, new_columns: int) -> Tensor:
    """Tokens (R * C, D) to a new grid: the mean of the old tokens that a new one touches."""
    out = []
    for r in range(new_rows):
        for c in range(new_columns):
            touched = [
                grid[i * columns + j]
                for i in range(rows)
                for j in range(columns)
                if i * new_rows < (r + 1) * rows and (i + 1) * new_rows > r * rows
                if j * new_columns < (c + 1) * columns and (j + 1) * new_columns > c * columns
            ]
            out.append(torch.stack(touched).mean(0))
    return torch.stack(out)
