"""Intervals of keys by FlexAttention (arXiv 2412.05496), which skips what no query sees.

For GPUs: no mask (N, M) is read, and only blocks with a visible pair are computed. On a CPU
PyTorch has its forward pass alone.

Shape suffixes: B batch, H heads, Hk key heads, N queries, M keys, D head width.
"""

import os
from collections.abc import Callable
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.utils.weak import WeakTensorKeyDictionary

_SWITCH = "TRIPTYCH_FLEX"


def wants_flex() -> bool:
    """Whether ``TRIPTYCH_FLEX=1`` asks for this kernel."""
    return os.environ.get(_SWITCH) == "1"


class FlexSpans:
    """FlexAttention over intervals; what it makes of the intervals is kept as long as they are."""

    def __init__(self) -> None:
        self._masks = WeakTensorKeyDictionary()

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, spans: Tensor, scale: float
    ) -> Tensor:
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
        mask = self._masks.get(spans)
        if mask is None:
            mask = self._masks[spans] = _make_mask(spans, key.shape[2])
        attend = _compiled() if query.is_cuda else cast(Callable[..., Any], flex_attention)
        grouped = query.shape[1] != key.shape[1]
        out = attend(query, key, value, block_mask=mask, scale=scale, enable_gqa=grouped)
        empty = spans[..., 0] >= spans[..., 1]
        return cast(Tensor, out).masked_fill(empty[:, None, :, None], 0.0)


def _make_mask(spans: Tensor, keys: int) -> BlockMask:
    starts, stops = spans[..., 0].contiguous(), spans[..., 1].contiguous()

    def sees(row: Tensor, head: Tensor, place: Tensor, other: Tensor) -> Tensor:
        return (other >= starts[row, place]) & (other < stops[row, place])

    return create_block_mask(sees, len(spans), None, spans.shape[1], keys, device=spans.device)


@cache
def _compiled() -> Callable[..., Any]:
    return torch.compile(flex_attention, dynamic=True)
