"""Blocks of queries and the interval of sorted keys that each query sees, as flat arrays.

The keys of a row are sorted by group (text, images) and place; then what a query sees of a group
is one interval of them. This is what the compiled kernel reads.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from triptych.attention.order import Ints, RowOrder
from triptych.attention.rules import Rule

BLOCK = 64
TILE = 128
_SHORT_RUN = 48
_WASTED_PAIRS = 8192


@dataclass(frozen=True)
class Intervals:
    """A batch; all arrays int64, two columns where there is one for the text and image group each.

    Attributes:
        queries: (N, 6): place among the queries; starts (2) and stops (2) of what is seen among
            the sorted keys of its row; the place of the key whose value is added, or -1.
        blocks: (blocks, 9): row; begin and end among ``queries``; begins (2) and ends (2) among
            ``tiles``; begins (2) among ``keys``.
        row_blocks: (B + 1,), where the blocks of each row begin.
        tiles: (tiles, 3): start and stop among the sorted keys of a row and group, and the place
            of the first key, or -1 where they do not stand side by side.
        keys: places of the sorted keys of all rows and groups.
        gathers: whether there are tiles whose keys do not stand side by side.
        filled: whether every query of the batch is in ``queries``.
    """

    queries: Ints
    blocks: Ints
    row_blocks: Ints
    tiles: Ints
    keys: Ints
    gathers: bool
    filled: bool


def plan_intervals(rule: Rule, orders: Sequence[RowOrder], keys: int, queries: int) -> Intervals:
    """Work out the intervals of a batch whose last ``queries`` of ``keys`` tokens ask."""
    asked: list[Ints] = []
    blocks: list[tuple[int, ...]] = []
    tiles: list[tuple[int, int, int]] = []
    places: list[Ints] = []
    row_blocks = [0]
    for row, order in enumerate(orders):
        tile_bounds, key_begins = [len(tiles)], []
        for text in (True, False):
            key_begins.append(sum(map(len, places)))
            places.append(order.index[order.text == text])
            tiles += _tiles(places[-1])
            tile_bounds.append(len(tiles))
        begin = sum(map(len, asked))
        asking, cuts = _queries(rule, order, keys - queries)
        asked.append(asking)
        blocks += [
            (row, begin + start, begin + stop, *tile_bounds[:2], *tile_bounds[1:], *key_begins)
            for start, stop in cuts
        ]
        row_blocks.append(len(blocks))
    return Intervals(
        np.concatenate(asked),
        np.array(blocks, np.int64).reshape(-1, 9),
        np.array(row_blocks, np.int64),
        np.array(tiles, np.int64).reshape(-1, 3),
        np.concatenate(places),
        any(first < 0 for _, _, first in tiles),
        sum(map(len, asked)) == len(orders) * queries,
    )


def _queries(rule: Rule, order: RowOrder, first: int) -> tuple[Ints, list[tuple[int, int]]]:
    """The queries of a row, text before images, and where to cut them into blocks."""
    sees = np.stack([*order.count(True), *order.count(False)], axis=1)
    own = np.full(len(order.index), -1)
    image = ~order.text
    if not rule.images_read_text:
        sees[image, :2] = 0
    if rule.image_scope == "image":
        sees[image, 2:] = _own_images(order)
    else:
        sees[image, 2:] = 0
        own[image] = order.index[image]
    table = np.column_stack([order.index - first, sees[:, [0, 2, 1, 3]], own])
    asks = order.index >= first
    chosen = [np.flatnonzero(asks & order.text), np.flatnonzero(asks & image)]
    cuts: list[tuple[int, int]] = []
    for found in chosen:
        if len(found):
            cuts += _cut(order.documents[found], sees[found, 3], cuts[-1][1] if cuts else 0)
    return table[np.concatenate(chosen)], cuts


def _own_images(order: RowOrder) -> Ints:
    """For each visual token, [start, stop) of its image among the visual tokens."""
    names = np.stack([order.documents, order.images])[:, ~order.text]
    starts = np.flatnonzero((np.diff(names, prepend=names[:, :1] - 1) != 0).any(0))
    lengths = np.diff(starts, append=names.shape[1])
    return np.stack([np.repeat(starts, lengths), np.repeat(starts + lengths, lengths)], axis=1)


def _cut(documents: Ints, images: Ints, offset: int = 0) -> list[tuple[int, int]]:
    """Cut queries into blocks of one document each, whose rows see about the same images.

    ``images`` counts the visual tokens that each query sees.
    """
    changes = (np.diff(documents) != 0) | (np.diff(images) != 0)
    bounds = np.concatenate([[0], np.flatnonzero(changes) + 1])
    found, start = [], 0
    for run, stop in zip(bounds.tolist(), [*bounds[1:].tolist(), len(documents)], strict=True):
        wasted = (run - start) * int(images[run] - images[start])
        if run > start and (documents[run] != documents[start] or wasted > _WASTED_PAIRS):
            found.append((start, run))
            start = run
        while stop - start >= BLOCK:
            found.append((start, start + BLOCK))
            start += BLOCK
    if start < len(documents):
        found.append((start, len(documents)))
    return [(offset + begin, offset + end) for begin, end in found]


def _tiles(places: Ints) -> Iterator[tuple[int, int, int]]:
    """Cut sorted keys into tiles; short runs of keys that stand side by side share one."""
    if not len(places):
        return
    begins = np.flatnonzero(np.diff(places, prepend=places[:1] - 2) != 1)
    waiting: tuple[int, int] | None = None
    for begin, end in zip(begins.tolist(), [*begins[1:].tolist(), len(places)], strict=True):
        short = end - begin < min(_SHORT_RUN, TILE)
        if waiting and (not short or end - waiting[0] > TILE):
            yield _tile(places, *waiting)
            waiting = None
        if short:
            waiting = (waiting[0] if waiting else begin, end)
            continue
        for start in range(begin, end, TILE):
            yield _tile(places, start, min(start + TILE, end))
    if waiting:
        yield _tile(places, *waiting)


def _tile(places: Ints, start: int, stop: int) -> tuple[int, int, int]:
    together = places[stop - 1] - places[start] == stop - 1 - start
    return start, stop, int(places[start]) if together else -1
