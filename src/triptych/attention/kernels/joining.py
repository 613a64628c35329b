"""Softmaxes joined from parts of their keys, and spans of tokens as tensors.

PyTorch's public attention function does not return the logarithm of its softmax sums, without
which parts of a softmax cannot be joined; so the two operators behind it are called directly.

Shape suffixes: Hk key heads, G query heads of a key head, K keys, D head width, R rows of a block.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from triptych.attention.order import Span

_forward_op = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward_op = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class Softmax:
    """One softmax of a block's queries, joined from parts of its keys.

    Attributes:
        out: (Hk, G, R, D), or None as long as there are no keys.
        sums: (Hk, G, R), the logarithm of the sum of exponentials.
    """

    def __init__(self, query: Tensor, scale: float) -> None:
        self.query = query
        self.scale = scale
        self.out: Tensor | None = None
        self.sums = query.new_empty(0)
        self._begun = 0

    def add(self, rows: Span, key: Tensor, value: Tensor, *, causal: bool = False) -> None:
        """Let rows see these keys (Hk, 1, K, D) too; they are new rows, or all have seen some."""
        start, stop = rows
        query = self.query[:, :, start:stop]
        out, sums = _forward_op(
            query, share_keys(key, query), share_keys(value, query), 0.0, causal, scale=self.scale
        )
        if query.shape == self.query.shape and self.out is None:
            self.out, self.sums, self._begun = out, sums, stop
            return
        if self.out is None:
            self.out = torch.zeros_like(self.query, dtype=torch.float32)
            self.sums = sums.new_full(self.query.shape[:-1], float("-inf"))
        self.out = self.out.float()
        mine, kept = self.out[:, :, start:stop], self.sums[:, :, start:stop]
        if start >= self._begun:
            mine.copy_(out)
            kept.copy_(sums)
            self._begun = stop
            return
        weight = torch.sigmoid(sums - kept).unsqueeze(-1)
        mine.lerp_(out.float(), weight)
        torch.logaddexp(kept, sums, out=kept)


class Gradient:
    """The gradient of one softmax of a block, part of its keys by part.

    Attributes:
        query: (Hk, G, R, D), the gradient that reached the queries so far, or None.
    """

    def __init__(
        self,
        query: Tensor,
        grad_out: Tensor,
        out: Tensor,
        sums: Tensor,
        scale: float,
        grad_query: Tensor | None,
    ) -> None:
        self._inputs = query, grad_out, out.to(query.dtype), sums
        self._scale = scale
        self.query = grad_query

    def through(
        self, rows: Span, key: Tensor, value: Tensor, causal: bool
    ) -> tuple[Tensor, Tensor]:
        """Gradients of keys and values (Hk, 1, K, D) that these rows see."""
        start, stop = rows
        query, grad_out, out, sums = (one[:, :, start:stop] for one in self._inputs)
        shared = share_keys(key, query), share_keys(value, query)
        grad_query, grad_key, grad_value = _backward_op(
            grad_out, query, *shared, out, sums, 0.0, causal, scale=self._scale
        )
        if self.query is None and query.shape == self._inputs[0].shape:
            self.query = grad_query
        else:
            if self.query is None:
                self.query = torch.zeros_like(self._inputs[0])
            self.query[:, :, start:stop] += grad_query
        return grad_key, grad_value


def share_keys(keys: Tensor, query: Tensor) -> Tensor:
    """Give every query head its key head, without a copy."""
    return keys.expand(-1, query.shape[1], -1, -1)


def shift(spans: Sequence[Span], by: int) -> list[Span]:
    """The spans, ``by`` tokens earlier."""
    return [(start - by, stop - by) for start, stop in spans]


def take(tensor: Tensor, spans: Sequence[Span]) -> Tensor:
    """The tokens of spans along the third dimension; a view where it can be one."""
    views = [tensor[:, :, start:stop] for start, stop in spans]
    return views[0] if len(views) == 1 else torch.cat(views, dim=2)


def put(tensor: Tensor, spans: Sequence[Span], values: Tensor) -> None:
    """Write values, which follow each other, to the tokens of spans."""
    lengths = [stop - start for start, stop in spans]
    for (start, stop), part in zip(spans, values.split(lengths, dim=2), strict=True):
        tensor[:, :, start:stop] = part


def add(tensor: Tensor, spans: Sequence[Span], values: Tensor) -> None:
    """Add values, which follow each other, to the tokens of spans."""
    lengths = [stop - start for start, stop in spans]
    for (start, stop), part in zip(spans, values.split(lengths, dim=2), strict=True):
        tensor[:, :, start:stop] += part


def clear(tensor: Tensor, spans: Sequence[Span]) -> None:
    """Set the tokens of spans to 0."""
    for start, stop in spans:
        tensor[:, :, start:stop] = 0


def fold(values: Tensor, like: Tensor) -> Tensor:
    """Add up what the query heads of a key head gave."""
    return values.sum(1, keepdim=True) if values.shape[1] > like.shape[1] else values


def take_sums(sums: Tensor, rows: Sequence[Span]) -> Tensor:
    """The softmax sums (Hk, G, R) of rows."""
    return take(sums.unsqueeze(-1), rows).squeeze(-1)
