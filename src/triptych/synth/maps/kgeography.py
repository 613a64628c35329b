"""The maps of KGeography (Debian package `kgeography-data`): regions by their exact colour.

Shapes: H, W height and width in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from triptych.errors import DataError
from triptych.images.decode import open_image

FOLDER = Path("usr/share/kgeography")
MOST_LABELS = 255
DARK = 60
"""Pixels of no region whose red, green and blue are all below this, of 255, are lines."""


@dataclass(frozen=True)
class Division:
    """A region: its name, its capital where one is given, and its colour in the picture."""

    name: str
    capital: str | None
    colour: tuple[int, int, int]


@dataclass(frozen=True)
class Sheet:
    """A map.

    Attributes:
        divisions: label n is the n-th of these, from 1.
        labels: H x W, the label of each pixel, 0 for none.
        borders: H x W, the pixels of lines.
    """

    divisions: Sequence[Division]
    labels: NDArray[np.uint8]
    borders: NDArray[np.bool_]


def read_sheet(path: Path) -> Sheet:
    """Read a .kgm file and its picture.

    Raises:
        DataError: one of them is missing, damaged, or of another layout.
    """
    try:
        root = ElementTree.fromstring(path.read_bytes())
        picture = root.findtext("mapFile", "").strip()
        divisions = [_division(node) for node in root.iter("division") if not _ignored(node)]
    except (OSError, ElementTree.ParseError, ValueError, TypeError) as error:
        raise DataError(f"{path.name}: not a map of KGeography ({error})") from None
    if not picture or not 1 < len(divisions) <= MOST_LABELS:
        raise DataError(f"{path.name}: {len(divisions)} regions, expected 2 to {MOST_LABELS}")
    pixels = np.asarray(open_image(path.with_name(picture))).astype(np.int64)
    codes = pixels @ (1 << 16, 1 << 8, 1)
    labels = np.zeros(codes.shape, dtype=np.uint8)
    for label, one in enumerate(divisions, 1):
        labels[codes == one.colour[0] << 16 | one.colour[1] << 8 | one.colour[2]] = label
    return Sheet(divisions, labels, (labels == 0) & (pixels.max(axis=2) < DARK))


def _ignored(node: ElementTree.Element) -> bool:
    """Whether a division is no region: water, lines, other countries."""
    return node.findtext("ignore", "").strip() == "yes"


def _division(node: ElementTree.Element) -> Division:
    red, green, blue = (
        int(node.findtext(f"color/{name}", "")) for name in ("red", "green", "blue")
    )
    name = " ".join(node.findtext("name", "").split())
    return Division(
        name, " ".join(node.findtext("capital", "").split()) or None, (red, green, blue)
    )
