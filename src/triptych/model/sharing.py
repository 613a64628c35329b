"""Equal tiles of a batch are kept, moved and encoded once.

Shape suffixes: T tiles, U different tiles, S side of a tile in pixels.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray


def share_tiles(tiles: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None]:
    """Leave out tiles whose pixels have come before.

    Args:
        tiles: (T, 3, S, S), contiguous.

    Returns:
        The different tiles (U, 3, S, S) in order of first appearance, and for each tile its place
        among them (T,), or None when all are different.
    """
    places: dict[bytes, int] = {}
    index = np.empty(len(tiles), dtype=np.int64)
    first: list[int] = []
    for number, tile in enumerate(tiles):
        key = hashlib.sha256(tile.data).digest()
        if key not in places:
            places[key] = len(first)
            first.append(number)
        index[number] = places[key]
    if len(first) == len(tiles):
        return tiles, None
    return tiles[first], index
