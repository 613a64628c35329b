"""AttentionLayout: what the kernels need to know of a batch, worked out once per forward pass.

It is a pure function of the token kinds and travels as a forward argument, so that all layers use
the same one and no module holds state.

Shape suffixes: B batch, K keys.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from triptych.attention.blocks import Block, plan_blocks
from triptych.attention.intervals import Intervals, plan_intervals
from triptych.attention.kernels.flex import FlexSpans, wants_flex
from triptych.attention.order import BatchOrder, order_rows
from triptych.attention.packing import Packed, pack
from triptych.attention.rules import Kind, Rule, Tokens, make_tokens
from triptych.errors import SpanError

_FEW_QUERIES = 8
_PAIRS_OF_A_CALL = 2000


@dataclass(frozen=True)
class AttentionLayout:
    """Where text, images and padding stand in a batch; see ``plan_attention``.

    Attributes:
        rule: the attention rule.
        tokens: of all keys, (B, K) each.
        queries: how many of the last keys ask.
        plain: all tokens are text of one document, and plain causal attention is the rule.
        masks: bool (groups, B, Q, K) when few queries ask over a cache, else None.
        packed: the batch by kind, when neither ``plain`` nor ``masks`` serves.
        order: the tokens of each row in order, beside ``packed``.
    """

    rule: Rule
    tokens: Tokens
    queries: int
    plain: bool
    masks: Tensor | None
    packed: Packed | None
    order: BatchOrder | None

    @property
    def keys(self) -> int:
        """Number of keys of each row."""
        return self.tokens.kinds.shape[1]

    @property
    def _ordered(self) -> BatchOrder:
        if self.order is None:
            raise SpanError("a layout that is plain or has masks has no order")
        return self.order

    @cached_property
    def flex(self) -> FlexSpans | None:
        """FlexAttention, where it is asked for."""
        return FlexSpans() if wants_flex() else None

    @cached_property
    def intervals(self) -> Intervals:
        """The interval of sorted keys that each query sees; see ``plan_intervals``."""
        return plan_intervals(self.rule, self._ordered, self.keys, self.queries)

    @cached_property
    def blocks(self) -> tuple[tuple[Block, ...], ...]:
        """The rectangles of each row; see ``plan_blocks``."""
        first = self.keys - self.queries
        order = self._ordered
        rows = (order.row(row) for row in range(len(order)))
        return tuple(plan_blocks(self.rule, row, first) for row in rows)

    @cached_property
    def prefers_blocks(self) -> bool:
        """Whether rectangles row by row cost less than the batch at once with a mask."""
        blocks = [block for row in self.blocks for block in row]
        calls, pairs = sum(block.calls for block in blocks), sum(block.pairs for block in blocks)
        packed = self.packed
        if packed is None:
            return False
        text, image = packed.text_keys.shape[1], packed.image_keys.shape[1]
        asking = packed.text_queries.shape[1]
        masked = (
            asking * (text // 2 if packed.causal else text + text // 2) + asking * image * 3 // 2
        )
        if self.rule.images_read_text:
            masked += packed.image_queries.shape[1] * text * 3 // 2
        return pairs + calls * _PAIRS_OF_A_CALL < len(self.blocks) * masked + 2 * _PAIRS_OF_A_CALL


def plan_attention(
    rule: Rule,
    token_kinds: Tensor,
    queries: int,
    *,
    document_ids: Tensor | None = None,
    image_ids: Tensor | None = None,
    token_places: Tensor | None = None,
) -> AttentionLayout:
    """Work out the layout of a batch.

    Args:
        rule: the attention rule.
        token_kinds: (B, K), a ``Kind`` for each key, cached ones included.
        queries: how many of the last keys ask.
        document_ids: (B, K); tokens of different documents never see each other.
        image_ids: (B, K); image of each visual token, needed by image scope ``image`` where two
            images touch.
        token_places: (B, K); the order of the tokens where they do not stand in it.

    Raises:
        SpanError: more queries than keys; a document in pieces; or, with image scope ``image``,
            an image of which only a part asks.
    """
    keys = token_kinds.shape[1]
    if queries > keys:
        raise SpanError(f"{queries} queries, but token_kinds has only {keys} entries")
    tokens = make_tokens(token_kinds, documents=document_ids, images=image_ids, places=token_places)
    simple = document_ids is None and token_places is None
    alike = bool((token_kinds == Kind.TEXT).all()) or (
        rule.name == "causal" and bool((token_kinds != Kind.PAD).all())
    )
    plain = simple and alike and queries in (1, keys)
    if rule.image_scope == "image":
        _check_whole_images(tokens, queries)
    masks = None
    if not plain and queries <= _FEW_QUERIES and queries < keys:
        masks = rule.masks(tokens, queries)
    if plain or masks is not None:
        return AttentionLayout(rule, tokens, queries, plain, masks, None, None)
    order = order_rows(rule, tokens)
    packed = pack(rule, order, keys, queries, token_kinds.device)
    return AttentionLayout(rule, tokens, queries, plain, masks, packed, order)


def _check_whole_images(tokens: Tokens, queries: int) -> None:
    """Refuse images that began before the queries and go on among them."""
    first = tokens.kinds.shape[1] - queries
    if not bool(tokens.image[:, first:].any()):
        return
    names = torch.stack([tokens.documents, tokens.images], -1)
    for row, (name, image) in enumerate(zip(names, tokens.image, strict=True)):
        cached, asking = name[:first][image[:first]], name[first:][image[first:]]
        if set(map(tuple, cached.tolist())) & set(map(tuple, asking.tolist())):
            raise SpanError(
                f"sample {row}: an image is cut in two by the chunks it is given in; with "
                "image_scope 'image' its tokens see each other and must come in one chunk"
            )
