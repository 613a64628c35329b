"""The fast path everywhere else: text gathered, PyTorch's public attention, one mask over images.

No sizes but those of tensors enter, so that a compiled model serves all layouts; and no S x S
matrix over image rows is formed.

Shape suffixes: B batch, H heads, Hk key heads, Q queries, K keys, D head width, N, M, V, U, I, L as
in ``Packed``.
"""

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

from triptych.attention.packing import Packed
from triptych.attention.rules import Rule

Attend = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]


def packed_attention(
    rule: Rule,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    packed: Packed,
    scale: float,
    by_spans: Attend | None = None,
) -> Tensor:
    """Attention of a batch whose rows may have different layouts.

    Args:
        rule: the attention rule.
        query: (B, H, Q, D), the last Q of the K tokens.
        key: (B, Hk, K, D), where Hk divides H.
        value: (B, Hk, K, D).
        packed: the batch by kind.
        scale: of the scores.
        by_spans: one softmax in which each query sees an interval of keys; default: PyTorch's
            attention with a mask.

    Returns:
        (B, H, Q, D); 0 where a query is padding.
    """
    by_spans = by_spans or masked_spans
    asked = _gather(query, packed.text_queries)
    texts = _gather(key, packed.text_keys), _gather(value, packed.text_keys)
    if packed.causal:
        out = F.scaled_dot_product_attention(
            asked, *texts, is_causal=True, scale=scale, enable_gqa=_grouped(query, key)
        )
    else:
        out = by_spans(asked, *texts, packed.text_spans, scale)
    if not packed.image_keys.shape[1]:
        return _place(query, packed, out, None)
    images = _gather(key, packed.image_keys), _gather(value, packed.image_keys)
    out = out + by_spans(asked, *images, packed.image_spans, scale)
    if not packed.image_queries.shape[1]:
        return _place(query, packed, out, None)
    if rule.image_scope == "image":
        own = _whole_images(query, key, value, packed, scale)
    else:
        share = query.shape[1] // value.shape[1]
        last = value[:, :, value.shape[2] - query.shape[2] :]
        own = _gather(last.repeat_interleave(share, 1), packed.image_queries)
    if rule.images_read_text:
        asked = _gather(query, packed.image_queries)
        own = own + by_spans(asked, *texts, packed.image_text_spans, scale)
    return _place(query, packed, out, own)


def _grouped(query: Tensor, key: Tensor) -> bool:
    return query.shape[1] != key.shape[1]


def masked_spans(query: Tensor, key: Tensor, value: Tensor, spans: Tensor, scale: float) -> Tensor:
    """One softmax in which each query sees one interval of keys; rows with an empty one get 0.

    Such rows are given one key to look at, and what they saw is dropped: kernels differ in what
    they make of a row without any.

    Args:
        query: (B, H, N, D).
        key: (B, Hk, M, D).
        value: (B, Hk, M, D).
        spans: (B, N, 2), [start, stop) of the keys that each query sees.
        scale: of the scores.

    Returns:
        (B, H, N, D).
    """
    places = torch.arange(key.shape[2], device=key.device)
    empty = spans[..., 0] >= spans[..., 1]
    start = torch.where(empty, 0, spans[..., 0])
    stop = torch.where(empty, 1, spans[..., 1])
    mask = (places >= start.unsqueeze(-1)) & (places < stop.unsqueeze(-1))
    out = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask.unsqueeze(1),
        scale=scale,
        enable_gqa=_grouped(query, key),
    )
    return out.masked_fill(empty[:, None, :, None], 0.0)


def _whole_images(
    query: Tensor, key: Tensor, value: Tensor, packed: Packed, scale: float
) -> Tensor:
    """Attention within each image, (B, H, U, D)."""
    batch, _, queries, _ = query.shape
    keys = key.shape[2]
    row, place = packed.images // keys, packed.images % keys
    asking = torch.where(packed.images < 0, -1, row * queries + place - (keys - queries))
    parts = [
        _rows(tensor, index).transpose(1, 2)
        for tensor, index in ((query, asking), (key, packed.images), (value, packed.images))
    ]
    lengths = (packed.images >= 0).sum(1)
    spans = torch.stack([torch.zeros_like(lengths), lengths], -1)[:, None].expand(
        -1, packed.images.shape[1], -1
    )
    out = masked_spans(parts[0], parts[1], parts[2], spans, scale)
    rows = out.transpose(1, 2).flatten(0, 1)
    whole = cast(Tensor, _Spread.apply(rows, asking.flatten(), batch * queries, False))
    return _gather(whole.unflatten(0, (batch, queries)).transpose(1, 2), packed.image_queries)


def _place(query: Tensor, packed: Packed, text: Tensor, image: Tensor | None) -> Tensor:
    """Put the outputs (B, H, N or U, D) at the places of their queries: (B, H, Q, D)."""
    batch, _, queries, _ = query.shape
    index, out = packed.text_queries, text
    if image is not None:
        index = torch.cat([index, packed.image_queries], 1)
        out = torch.cat([out, image], 2)
    rows, index = out.transpose(1, 2).flatten(0, 1), _flat(index, queries).flatten()
    whole = cast(Tensor, _Spread.apply(rows, index, batch * queries, packed.filled))
    return cast(Tensor, whole.unflatten(0, (batch, queries)).transpose(1, 2))


def _flat(index: Tensor, length: int) -> Tensor:
    """Index into (B * length) rows of an index (B, n) into rows of ``length``; -1 stays."""
    batch = torch.arange(len(index), device=index.device).unsqueeze(1)
    return torch.where(index < 0, -1, index + batch * length)


def _gather(tensor: Tensor, index: Tensor) -> Tensor:
    """Take tokens (B, n) of (B, H, S, D): (B, H, n, D)."""
    return _rows(tensor, _flat(index, tensor.shape[2])).transpose(1, 2)


def _rows(tensor: Tensor, index: Tensor) -> Tensor:
    """Take tokens (B, n) among the B * S of (B, H, S, D): (B, n, H, D)."""
    rows = tensor.transpose(1, 2).reshape(-1, tensor.shape[1], tensor.shape[3])
    taken = cast(Tensor, _Take.apply(rows, index.flatten()))
    return cast(Tensor, taken.unflatten(0, index.shape))


class _Context(FunctionCtx):
    """What is kept for the gradient."""

    saved_tensors: tuple[Tensor, ...]
    length: int


class _Take(torch.autograd.Function):
    """Rows by index, each at most once but for -1, which stands for any row and needs no gradient.

    The gradient is a copy; that of ``index_select`` has to add, which is slow.
    """

    @staticmethod
    def forward(ctx: _Context, rows: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.length = len(rows)
        return rows.index_select(0, index.clamp(min=0))

    @staticmethod
    def backward(ctx: _Context, *grads: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        grad = grads[0]
        whole = grad.new_zeros((ctx.length + 1, *grad.shape[1:]))
        whole.index_copy_(0, torch.where(index < 0, ctx.length, index), grad.contiguous())
        return whole[: ctx.length], None


class _Spread(torch.autograd.Function):
    """The inverse: rows to their places among ``length``, those of index -1 dropped."""

    @staticmethod
    def forward(ctx: _Context, rows: Tensor, index: Tensor, length: int, filled: bool) -> Tensor:
        ctx.save_for_backward(index)
        make = rows.new_empty if filled else rows.new_zeros
        whole = make((length + 1, *rows.shape[1:]))
        whole.index_copy_(0, torch.where(index < 0, length, index), rows)
        return whole[:length]

    @staticmethod
    def backward(ctx: _Context, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (index,) = ctx.saved_tensors
        grad = grads[0].index_select(0, index.clamp(min=0))
        return grad.masked_fill((index < 0)[:, None, None], 0.0), None, None, None
