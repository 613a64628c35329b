"""Blocks of queries and the interval of sorted keys that each query sees, as flat arrays.

The keys of a row are sorted by group (text, images) and place; then what a query sees of a group
is one interval of them. This is what the compiled kernel reads.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from triptych.attention.order import BatchOrder, Ints, starts_anew
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


def plan_intervals(rule: Rule, order: BatchOrder, keys: int, queries: int) -> Intervals:
    """Work out the intervals of a batch whose last ``queries`` of ``keys`` tokens ask."""
    chosen = np.flatnonzero(order.index >= keys - queries)
    chosen = chosen[np.lexsort((~order.text[chosen], order.rows[chosen]))]
    table = _queries(rule, order, keys - queries)[chosen]
    names = order.rows[chosen], order.text[chosen], order.documents[chosen]
    cuts = _cut(np.cumsum(starts_anew(*names)), table[:, 4])
    rows = names[0][cuts[:, 0]]
    by_group = np.lexsort((~order.text, order.rows))
    places, owners = order.index[by_group], (2 * order.rows + ~order.text)[by_group]
    groups = np.arange(2 * len(order) + 1)
    key_bounds = np.searchsorted(owners, groups)
    tiles = np.array([*_tiles(places, owners)], np.int64).reshape(-1, 4)
    bounds = np.searchsorted(tiles[:, 0], groups)
    tiles[:, 1:3] -= key_bounds[tiles[:, :1]]
    pair = 2 * rows[:, None] + np.arange(2)
    blocks = [rows[:, None], cuts, bounds[pair], bounds[pair + 1], key_bounds[pair]]
    return Intervals(
        table,
        np.concatenate(blocks, axis=1),
        np.searchsorted(rows, np.arange(len(order) + 1)),
        np.ascontiguousarray(tiles[:, 1:]),
        places,
        bool((tiles[:, 3] < 0).any()),
        len(chosen) == len(order) * queries,
    )


def _queries(rule: Rule, order: BatchOrder, first: int) -> Ints:
    """Every token as a query (N, 6), see ``Intervals``."""
    sees = np.stack([*order.count(True), *order.count(False)], axis=1)
    own = np.full(len(order.index), -1)
    image = ~order.text
    if not rule.images_read_text:
        sees[image, :2] = 0
    if rule.image_scope == "image":
        sees[image, 2:] = _own_images(order, sees[image, 3])
    else:
        sees[image, 2:] = 0
        own[image] = order.index[image]
    return np.column_stack([order.index - first, sees[:, [0, 2, 1, 3]], own])


def _own_images(order: BatchOrder, stops: Ints) -> Ints:
    """For each visual token, [start, stop) of its image among the visual tokens of its row.

    ``stops`` counts those up to each.
    """
    image = ~order.text
    starts = np.flatnonzero(
        starts_anew(order.rows[image], order.documents[image], order.images[image])
    )
    lengths = np.diff(starts, append=len(stops))
    begins = np.repeat(stops[starts] - 1, lengths)
    return np.stack([begins, begins + np.repeat(lengths, lengths)], axis=1)


def _cut(names: Ints, images: Ints) -> Ints:
    """Cut queries into blocks of one name each, whose rows see about the same images.

    Args:
        names: (N,), of the row, kind and document of each query.
        images: (N,), how many visual tokens each query sees.

    Returns:
        (blocks, 2): begin and end of each.
    """
    bounds = np.flatnonzero(starts_anew(names, images)).tolist()
    found: list[tuple[int, int]] = []
    start = 0
    for run, stop in zip(bounds, [*bounds[1:], len(names)], strict=False):
        wasted = (run - start) * int(images[run] - images[start])
        if run > start and (names[run] != names[start] or wasted > _WASTED_PAIRS):
            found.append((start, run))
            start = run
        while stop - start >= BLOCK:
            found.append((start, start + BLOCK))
            start += BLOCK
    if start < len(names):
        found.append((start, len(names)))
    return np.array(found, np.int64).reshape(-1, 2)


def _tiles(places: Ints, owners: Ints) -> Iterator[tuple[int, int, int, int]]:
    """Cut sorted keys into tiles; short runs of keys that stand side by side share one.

    Args:
        places: (N,), of the keys.
        owners: (N,), the row and group of each.

    Yields:
        Owner, start, stop, and the first key's place or -1.
    """
    bounds = np.flatnonzero(starts_anew(owners, places - np.arange(len(places)))).tolist()
    names = owners[bounds].tolist()
    waiting: tuple[int, int, int] | None = None
    for name, begin, end in zip(names, bounds, [*bounds[1:], len(places)], strict=False):
        short = end - begin < min(_SHORT_RUN, TILE)
        if waiting and (not short or name != waiting[0] or end - waiting[1] > TILE):
            yield (*waiting, _first(places, *waiting[1:]))
            waiting = None
        if short:
            waiting = (name, waiting[1] if waiting else begin, end)
            continue
        for start in range(begin, end, TILE):
            yield name, start, min(start + TILE, end), int(places[start])
    if waiting:
        yield (*waiting, _first(places, *waiting[1:]))


def _first(places: Ints, start: int, stop: int) -> int:
    """The first key's place, or -1 where the keys do not stand side by side."""
    together = places[stop - 1] - places[start] == stop - 1 - start
    return int(places[start]) if together else -1
