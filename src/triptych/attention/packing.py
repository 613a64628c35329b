"""The tokens of a batch sorted by kind, so that what a query sees is one interval.

Shape suffixes: B batch, K keys, N text queries, M text keys, V visual tokens (keys), U visual
tokens (queries), I images, L tokens of an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from triptych.attention.order import Ints, RowOrder
from triptych.attention.rules import Rule


@dataclass(frozen=True)
class Packed:
    """A batch by kind; rows of unequal length are filled with -1, spans with [0, 0).

    Attributes:
        text_queries: (B, N), places among the queries.
        text_keys: (B, M), places among the keys.
        text_spans: (B, N, 2), the text keys that each text query sees.
        causal: text query n sees exactly the text keys up to n.
        image_keys: (B, V), places among the keys; V is 0 when there are none.
        image_spans: (B, N, 2), the visual tokens that each text query sees.
        image_queries: (B, U), places among the queries.
        image_text_spans: (B, U, 2), the text keys that each visual token sees.
        images: (I, L), for every image that asks the places of its tokens among B * K keys, where
            an image's tokens see each other.
        filled: whether every query is text or a visual token.
    """

    text_queries: Tensor
    text_keys: Tensor
    text_spans: Tensor
    causal: bool
    image_keys: Tensor
    image_spans: Tensor
    image_queries: Tensor
    image_text_spans: Tensor
    images: Tensor
    filled: bool


def pack(
    rule: Rule, orders: Sequence[RowOrder], keys: int, queries: int, device: torch.device
) -> Packed:
    """Sort a batch whose last ``queries`` of ``keys`` tokens ask."""
    first = keys - queries
    text = [_select(order, first, text=True) for order in orders]
    image = [_select(order, first, text=False) for order in orders]
    none = np.zeros((0, 2), np.int64)
    reads = rule.images_read_text
    stacked = {
        "text_queries": _stack([row.queries for row in text], -1),
        "text_keys": _stack([row.keys for row in text], -1),
        "text_spans": _stack([row.sees_text for row in text], 0),
        "image_keys": _stack([row.keys for row in image], -1),
        "image_spans": _stack([row.sees_image for row in text], 0),
        "image_queries": _stack([row.queries for row in image], -1),
        "image_text_spans": _stack([row.sees_text if reads else none for row in image], 0),
        "images": _stack(_images(rule, orders, keys, first), -1),
    }
    causal = all(
        len(row.queries) == len(row.keys)
        and np.array_equal(row.sees_text[:, 0], np.zeros(len(row.keys)))
        for row in text
    )
    asking = sum(len(row.queries) for row in (*text, *image))
    return Packed(
        **{name: torch.from_numpy(array).to(device) for name, array in stacked.items()},
        causal=causal,
        filled=asking == len(orders) * queries,
    )


@dataclass(frozen=True)
class _Kind:
    """The tokens of one kind of a row: keys, queries, and what the queries see."""

    keys: Ints
    queries: Ints
    sees_text: Ints
    sees_image: Ints


def _select(order: RowOrder, first: int, *, text: bool) -> _Kind:
    chosen = order.text == text
    asks = chosen & (order.index >= first)
    return _Kind(
        order.index[chosen],
        order.index[asks] - first,
        np.stack(order.count(True), axis=1)[asks],
        np.stack(order.count(False), axis=1)[asks],
    )


def _images(rule: Rule, orders: Sequence[RowOrder], keys: int, first: int) -> list[Ints]:
    """Tokens of each image that asks, among all keys of the batch; none where none is needed."""
    found: list[Ints] = []
    if rule.image_scope != "image":
        return found
    for row, order in enumerate(orders):
        asks = ~order.text & (order.index >= first)
        names = np.stack([order.documents[asks], order.images[asks]], axis=1)
        for document, image in np.unique(names, axis=0):
            own = asks & (order.documents == document) & (order.images == image)
            found.append(order.index[own] + row * keys)
    return found


def _stack(rows: Sequence[Ints], fill: int) -> Ints:
    """Stack arrays of unequal length, filled up at the end."""
    longest = max((len(row) for row in rows), default=0)
    shape = (len(rows), longest, *(rows[0].shape[1:] if rows else ()))
    stacked = np.full(shape, fill, np.int64)
    for target, row in zip(stacked, rows, strict=True):
        target[: len(row)] = row
    return stacked
