"""Random layouts, tensors, and every kernel under one signature."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import strategies as st
from tests.oracles.attention import IMAGE, PAD, TEXT
from torch import Tensor

from triptych.attention import AttentionLayout, Rule, make_rule, plan_attention
from triptych.attention.blocks import plan_blocks
from triptych.attention.intervals import plan_intervals
from triptych.attention.kernels.blocked import blocked_attention
from triptych.attention.kernels.dense import dense_attention
from triptych.attention.kernels.flex import FlexSpans
from triptych.attention.kernels.native import has_native, native_attention
from triptych.attention.kernels.packed import packed_attention
from triptych.attention.kernels.reference import reference_attention
from triptych.attention.order import order_rows

RULES = [
    ("causal", "self"),
    ("mmca", "self"),
    ("mmca", "image"),
    ("mmca_as_coded", "self"),
    ("mmca_as_coded", "image"),
]
needs_native = pytest.mark.skipif(not has_native(), reason="no C compiler for native_c")
NATIVE = pytest.param("native", marks=needs_native)
KERNELS = ["reference", "dense", "packed", "blocked", NATIVE]
SCALE = 0.3


@dataclass(frozen=True)
class Case:
    """A batch: (B, S) kinds, documents and images; the last ``queries`` tokens ask."""

    kinds: Tensor
    documents: Tensor
    images: Tensor
    queries: int
    heads: int
    key_heads: int


@st.composite
def rows(draw: st.DrawFn, length: int) -> tuple[list[int], list[int], list[int]]:
    """One sample: documents of text runs and images that may touch, padding on either side."""
    kinds: list[int] = []
    documents: list[int] = []
    images: list[int] = []
    image = 0
    for document in range(draw(st.integers(1, 3))):
        for _ in range(draw(st.integers(0, 4))):
            kind = draw(st.sampled_from([TEXT, IMAGE]))
            size = draw(st.integers(1, 6))
            image += kind == IMAGE
            kinds += [kind] * size
            documents += [document] * size
            images += [image if kind == IMAGE else 0] * size
    kinds, documents, images = kinds[:length], documents[:length], images[:length]
    left = draw(st.integers(0, length - len(kinds)))
    right = length - len(kinds) - left

    def pad(values: list[int], fill: int) -> list[int]:
        return [fill] * left + values + [fill] * right

    return pad(kinds, PAD), pad(documents, 7), pad(images, 0)


@st.composite
def cases(draw: st.DrawFn, *, chunked: bool = False) -> Case:
    length = draw(st.integers(1, 24))
    batch = [draw(rows(length)) for _ in range(draw(st.integers(1, 3)))]
    kinds, documents, images = (torch.tensor(field) for field in zip(*batch, strict=True))
    key_heads, share = draw(st.sampled_from([(1, 1), (2, 1), (1, 3), (2, 2)]))
    queries = draw(st.integers(1, length)) if chunked else length
    return Case(kinds, documents, images, queries, key_heads * share, key_heads)


def tensors(case: Case, dtype: torch.dtype = torch.float32, depth: int = 8) -> list[Tensor]:
    """Query, key and value in the memory layout of transformers' attention layers."""
    batch, keys = case.kinds.shape
    shapes = [(case.queries, case.heads), (keys, case.key_heads), (keys, case.key_heads)]
    return [
        torch.randn(batch, length, heads, depth).to(dtype).transpose(1, 2).detach().requires_grad_()
        for length, heads in shapes
    ]


def plan(rule: Rule, case: Case) -> AttentionLayout:
    return plan_attention(
        rule,
        case.kinds,
        case.queries,
        document_ids=case.documents,
        image_ids=case.images,
    )


def run(kernel: str, rule: Rule, case: Case, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """One kernel, whichever the layout would choose."""
    layout = plan(rule, case)
    masks = rule.masks(layout.tokens, case.queries)
    if kernel == "reference":
        return reference_attention(query, key, value, masks, SCALE)
    if kernel == "dense":
        return dense_attention(query, key, value, masks, SCALE)
    order = order_rows(rule, layout.tokens)
    if kernel == "native":
        intervals = plan_intervals(rule, order, case.kinds.shape[1], case.queries)
        return native_attention(query, key, value, intervals, SCALE)
    if kernel == "blocked":
        first = case.kinds.shape[1] - case.queries
        plans = [plan_blocks(rule, order.row(row), first) for row in range(len(order))]
        return blocked_attention(query, key, value, plans, SCALE)
    from triptych.attention.packing import pack

    packed = pack(rule, order, case.kinds.shape[1], case.queries, query.device)
    by_spans = FlexSpans() if kernel == "flex" else None
    return packed_attention(rule, query, key, value, packed, SCALE, by_spans)


def splits_image(case: Case) -> bool:
    """Whether an image began before the queries and goes on among them."""
    first = case.kinds.shape[1] - case.queries
    return any(
        set(images[:first][kinds[:first] == IMAGE].tolist())
        & set(images[first:][kinds[first:] == IMAGE].tolist())
        for kinds, images in zip(case.kinds, case.images, strict=True)
    )


__all__ = [
    "KERNELS", "NATIVE", "RULES", "SCALE", "Case", "cases", "make_rule", "needs_native", "plan",
    "run", "tensors",
]  # fmt: skip
