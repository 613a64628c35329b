"""The fast path on a CPU without the compiled kernel: fused attention over rectangles, no mask.

Heads are worked on a few at a time, so that what is held beside inputs and outputs stays about
as small as the buffers of one fused call.

Shape suffixes: B batch, H heads, Hk key heads, G = H / Hk, Q queries, K keys, D head width,
R rows of a block.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from triptych.attention.blocks import Block, Piece
from triptych.attention.kernels.joining import (
    Gradient,
    Softmax,
    add,
    clear,
    fold,
    put,
    shift,
    take,
    take_sums,
)
from triptych.attention.kernels.memory import dense_rows, make_rows
from triptych.attention.order import Span

_BUDGET_BYTES = 1 << 22
_KEPT_SHARE = 8


def blocked_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plans: Sequence[Sequence[Block]],
    scale: float,
) -> Tensor:
    """Attention of each batch row by its blocks.

    Args:
        query: (B, H, Q, D), the last Q of the K tokens.
        key: (B, Hk, K, D), where Hk divides H.
        value: (B, Hk, K, D).
        plans: the blocks of each row, see ``plan_blocks``.
        scale: of the scores.

    Returns:
        (B, H, Q, D); 0 where a query belongs to no block.
    """
    return cast(Tensor, _Blocked.apply(query, key, value, plans, scale))


class _Context(FunctionCtx):
    """What is kept for the gradient."""

    saved_tensors: tuple[Tensor, ...]
    plans: Sequence[Sequence[Block]]
    scale: float


class _Blocked(torch.autograd.Function):
    """Keeps inputs, output and softmax sums; most else the gradient needs is worked out again."""

    @staticmethod
    def forward(
        ctx: _Context,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        plans: Sequence[Sequence[Block]],
        scale: float,
    ) -> Tensor:
        query, key, value = (dense_rows(one) for one in (query, key, value))
        out = _buffer(query, plans, query.shape[2])
        sums = query.new_full((2, *query.shape[:3]), float("-inf"), dtype=torch.float32)
        kept: list[Tensor] = []
        for part in _parts(query, key, value, out, sums, plans):
            for block in part.blocks:
                image = part.forward(block, scale)
                if image is not None and part.keeps_images:
                    kept.append(image)
        ctx.save_for_backward(query, key, value, out, sums, *kept)
        ctx.plans, ctx.scale = plans, scale
        return out

    @staticmethod
    def backward(ctx: _Context, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, out, sums, *images = ctx.saved_tensors
        kept = iter(images)
        targets = [_buffer(one, ctx.plans, query.shape[2]) for one in (query, key, value)]
        parts = _parts(query, key, value, out, sums, ctx.plans)
        grad_out = dense_rows(grads[0])
        grad_parts = _parts(targets[0], targets[1], targets[2], grad_out, sums, ctx.plans)
        for part, grad in zip(parts, grad_parts, strict=True):
            for block in part.blocks:
                image = next(kept) if block.image and part.keeps_images else None
                part.backward(block, grad, image, ctx.scale)
        return targets[0], targets[1], targets[2], None, None


def _plus(total: Tensor, image: Tensor, group: int) -> Tensor:
    """The sum, in the memory of the text group's output where there is one."""
    return total.add_(image) if group and total.dtype == image.dtype else total + image


def _buffer(like: Tensor, plans: Sequence[Sequence[Block]], queries: int) -> Tensor:
    """A tensor (B, H, S, D) to be written, in memory (B, S, H, D).

    It is 0 unless blocks cover every token: a block overwrites what belongs to its own tokens.
    """
    whole = all(sum(block.size for block in blocks) == queries for blocks in plans)
    return make_rows(like, filled=whole and like.shape[2] == queries)


@dataclass
class _Part:
    """One batch row and a few of its heads, as views.

    Attributes:
        query: (Hk, G, Q, D).
        key: (Hk, 1, K, D).
        value: (Hk, 1, K, D).
        out: (Hk, G, Q, D).
        sums: (2, Hk, G, Q), of the text and the image group.
        first: the key that is the first query.
        blocks: of the row.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    out: Tensor
    sums: Tensor
    first: int
    blocks: Sequence[Block]

    @property
    def keeps_images(self) -> bool:
        """Whether image outputs of text rows are few enough to be kept for the gradient."""
        rows = sum(block.size for block in self.blocks if block.image)
        return _KEPT_SHARE * rows <= self.query.shape[2]

    def forward(self, block: Block, scale: float) -> Tensor | None:
        """Write the block's rows of ``out`` and ``sums``; return the image group's output."""
        rows = shift(block.rows, self.first)
        query = take(self.query, rows)
        total: Tensor | None = None
        if block.keeps_value:
            total = take(self.value, block.rows).expand_as(query)
        image: Tensor | None = None
        for group, softmax in enumerate(self._groups(block, query, scale)):
            image = softmax.out
            if image is not None:
                total = image if total is None else _plus(total, image, group)
                put(self.sums[group], rows, softmax.sums)
        if total is not None:
            put(self.out, rows, total)
        return image

    def _groups(self, block: Block, query: Tensor, scale: float) -> "Iterator[Softmax]":
        text = Softmax(query, scale)
        if block.triangle:
            own = Piece(0, block.size, block.rows)
            text.add((0, block.size), *self._keys(own), causal=True)
        yield self._gather(text, block.text)
        yield self._gather(Softmax(query, scale), block.image)

    def _keys(self, piece: Piece) -> tuple[Tensor, Tensor]:
        return take(self.key, piece.keys), take(self.value, piece.keys)

    def _gather(self, softmax: "Softmax", pieces: Sequence[Piece]) -> "Softmax":
        for piece in pieces:
            softmax.add((piece.start, piece.stop), *self._keys(piece))
        return softmax

    def backward(self, block: Block, grad: "_Part", image: Tensor | None, scale: float) -> None:
        """Add the block's share to the gradients, which ``grad`` holds as this holds values.

        No earlier block has touched what belongs to the block's own tokens, so that is overwritten.
        """
        rows = shift(block.rows, self.first)
        grad_out = take(grad.out, rows)
        if block.keeps_value:
            put(grad.value, block.rows, fold(grad_out, grad.value))
            clear(grad.key, block.rows)
        if not block.calls:
            clear(grad.query, rows)
            return
        query = take(self.query, rows)
        text, image = self._outputs(block, query, image, scale)
        grad_query: Tensor | None = None
        if image is not None:
            joint = Gradient(query, grad_out, image, take_sums(self.sums[1], rows), scale, None)
            own = block.image if block.owns_images else ()
            self._spread(joint, own, grad, put)
            self._spread(joint, block.image[len(own) :], grad, add)
            grad_query = joint.query
            del image, joint
        if text is not None:
            joint = Gradient(
                query, grad_out, text, take_sums(self.sums[0], rows), scale, grad_query
            )
            if block.triangle:
                rows_alone = Piece(0, block.size, block.rows)
                self._spread(joint, [rows_alone], grad, put, causal=True)
            self._spread(joint, block.text, grad, add)
            grad_query = joint.query
        if grad_query is not None:
            put(grad.query, rows, grad_query)

    def _outputs(
        self, block: Block, query: Tensor, image: Tensor | None, scale: float
    ) -> tuple[Tensor | None, Tensor | None]:
        """What each group gave, or None where it is empty.

        In full precision the text's share is what the others leave of the sum; rounded to less,
        the difference would be too coarse.
        """
        if query.dtype != torch.float32:
            text, again = (softmax.out for softmax in self._groups(block, query, scale))
            return text, again
        if image is None:
            image = self._gather(Softmax(query, scale), block.image).out
        if not (block.triangle or block.text):
            return None, image
        text = take(self.out, shift(block.rows, self.first))
        if block.keeps_value:
            text = text - take(self.value, block.rows)
        return (text if image is None else text - image), image

    def _spread(
        self,
        joint: "Gradient",
        pieces: Sequence[Piece],
        grad: "_Part",
        write: Callable[[Tensor, Sequence[Span], Tensor], None],
        *,
        causal: bool = False,
    ) -> None:
        for piece in pieces:
            rows = (piece.start, piece.stop)
            grad_key, grad_value = joint.through(rows, *self._keys(piece), causal)
            write(grad.key, piece.keys, fold(grad_key, grad.key))
            write(grad.value, piece.keys, fold(grad_value, grad.value))


def _parts(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    sums: Tensor,
    plans: Sequence[Sequence[Block]],
) -> Iterator[_Part]:
    """Cut a batch into rows, and the heads of a row so that temporary tensors stay small."""
    share = query.shape[1] // key.shape[1]
    first = key.shape[2] - query.shape[2]
    for row, blocks in enumerate(plans):
        step = _heads_at_once(query, key, blocks)
        for head in range(0, key.shape[1], step):
            few = slice(head * share, (head + step) * share)
            yield _Part(
                query[row, few].unflatten(0, (-1, share)),
                key[row, head : head + step, None],
                value[row, head : head + step, None],
                out[row, few].unflatten(0, (-1, share)),
                sums[:, row, few].unflatten(1, (-1, share)),
                first,
                blocks,
            )


def _heads_at_once(query: Tensor, key: Tensor, blocks: Sequence[Block]) -> int:
    """How many key heads share a call: as many as the budget allows, enough for all threads."""
    share = query.shape[1] // key.shape[1]
    rows = max((block.size for block in blocks if block.calls), default=1)
    pieces = [piece for block in blocks for piece in (*block.text, *block.image)]
    keys = max((sum(b - a for a, b in piece.keys) for piece in pieces), default=0)
    head = (4 * share * rows + 2 * keys) * query.shape[-1] * query.element_size()
    unit = -(-torch.get_num_threads() // share)
    return max(_BUDGET_BYTES // head // unit, 1) * unit
