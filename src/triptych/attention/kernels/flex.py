"""Intervals of keys by FlexAttention (arXiv 2412.05496), which skips what no query sees.

For GPUs: no mask (N, M) is read, and only blocks with a visible pair are computed. On a CPU
PyTorch has its forward pass alone.

Shape suffixes: B batch, H heads, Hk key heads, N queries, M keys, D head width.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention


def flex_spans(query: Tensor, key: Tensor, value: Tensor, spans: Tensor, scale: float) -> Tensor:
    """One softmax in which each query sees one interval of keys; rows with an empty one get 0.

    Args:
        query: (B, H, N, D).
        key: (B, Hk, M, D), where Hk divides H.
        value: (B, Hk, M, D).
        spans: (B, N, 2), [start, stop) of the keys that each query sees.
        scale: of the scores.

    Returns:
        (B, H, N, D).
    """
    starts, stops = spans[..., 0].contiguous(), spans[..., 1].contiguous()

    def sees(row: Tensor, head: Tensor, place: Tensor, other: Tensor) -> Tensor:
        return (other >= starts[row, place]) & (other < stops[row, place])

    mask = create_block_mask(
        sees, len(spans), None, query.shape[2], key.shape[2], device=query.device
    )
    plain = torch.compiler.is_compiling() or not query.is_cuda
    attend = cast(Callable[..., Any], flex_attention) if plain else _compiled()
    grouped = query.shape[1] != key.shape[1]
    out = attend(query, key, value, block_mask=mask, scale=scale, enable_gqa=grouped)
    empty = starts >= stops
    return cast(Tensor, out).masked_fill(empty[:, None, :, None], 0.0)


@cache
def _compiled() -> Callable[..., Any]:
    return torch.compile(flex_attention, dynamic=True)
