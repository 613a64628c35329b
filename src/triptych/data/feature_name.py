"""A name for what a feature cache holds."""

import hashlib
from collections.abc import Iterable

from triptych.images.layout import TileLayout
from triptych.model.processing import TriptychProcessor
from triptych.towers import Enter, Tap, Tower, fingerprint


def fingerprint_of(
    towers: Iterable[Tower],
    processor: TriptychProcessor,
    layout: TileLayout,
    part: Enter | Tap | None = None,
) -> str:
    """Hash what features depend on: towers, weights, their common layout, tiling and tile size.

    Args:
        towers: with their weights.
        processor: gives tiling and tile size.
        layout: common to the towers.
        part: what is kept of the towers, where it is not their tokens alone.
    """
    settings = processor.settings
    made = f"{settings.tiling.model_dump_json()} {settings.tile_size} {layout}"
    if settings.zoom is not None:
        made += f" {settings.zoom.model_dump_json()}"
    if part is not None:
        made += f" {part}"
    digest = hashlib.sha256(made.encode())
    for tower in towers:
        digest.update(fingerprint(tower).encode())
    return digest.hexdigest()
