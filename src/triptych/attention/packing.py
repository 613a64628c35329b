"""The tokens of a batch sorted by kind, so that what a query sees is one interval.

Shape suffixes: B batch, K keys, N text queries, M text keys, V visual tokens (keys), U visual
tokens (queries), I images, L tokens of an image.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from triptych.attention.order import BatchOrder, Bools, Ints
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


def pack(rule: Rule, order: BatchOrder, keys: int, queries: int, device: torch.device) -> Packed:
    """Sort a batch whose last ``queries`` of ``keys`` tokens ask."""
    first = keys - queries
    text = order.text
    asks = order.index >= first
    sees_text, sees_image = (np.stack(order.count(one), axis=1) for one in (True, False))
    reads = asks & ~text & rule.images_read_text
    stacked = {
        "text_queries": _stack(order, text & asks, order.index - first, -1),
        "text_keys": _stack(order, text, order.index, -1),
        "text_spans": _stack(order, text & asks, sees_text, 0),
        "image_keys": _stack(order, ~text, order.index, -1),
        "image_spans": _stack(order, text & asks, sees_image, 0),
        "image_queries": _stack(order, ~text & asks, order.index - first, -1),
        "image_text_spans": _stack(order, reads, sees_text, 0),
        "images": _images(rule, order, keys, first),
    }
    causal = bool(asks[text].all()) and not sees_text[text & asks, 0].any()
    return Packed(
        **{name: torch.from_numpy(array).to(device) for name, array in stacked.items()},
        causal=causal,
        filled=int(asks.sum()) == len(order) * queries,
    )


def _images(rule: Rule, order: BatchOrder, keys: int, first: int) -> Ints:
    """Tokens of each image that asks, among all keys of the batch; none where none is needed."""
    found: list[Ints] = []
    asks = ~order.text & (order.index >= first)
    if rule.image_scope == "image" and asks.any():
        names = np.stack([order.rows, order.documents, order.images])[:, asks]
        places = (order.rows * keys + order.index)[asks]
        images, own = np.unique(names, axis=1, return_inverse=True)
        found = [places[own == image] for image in range(images.shape[1])]
    stacked = np.full((len(found), max(map(len, found), default=0)), -1, np.int64)
    for target, one in zip(stacked, found, strict=True):
        target[: len(one)] = one
    return stacked


def _stack(order: BatchOrder, chosen: Bools, values: Ints, fill: int) -> Ints:
    """The values (N, ...) of chosen tokens row by row, filled up at the end: (B, longest, ...)."""
    rows = order.rows[chosen]
    lengths = np.bincount(rows, minlength=len(order))
    slots = np.arange(len(rows)) - (np.cumsum(lengths) - lengths)[rows]
    stacked = np.full((len(order), lengths.max(initial=0), *values.shape[1:]), fill, np.int64)
    stacked[rows, slots] = values[chosen]
    return stacked
