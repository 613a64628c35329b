"""Maps of parts of the world, drawn from the countries of `world-atlas`.

The world is cut into cells; the cell of a country is that of its middle. A map shows a cell and
what lies around it. The cell decides the split: on a held-out map only countries of held-out cells
are marked, and these are marked on no other map.

Shapes: H, W height and width in pixels.
"""

import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from triptych.errors import DataError
from triptych.synth.maps.topology import Country, Ring, read_countries
from triptych.synth.split import held_out

FILE = "package/countries-110m.json"
CELL = (30, 20)
"""Degrees of longitude and latitude."""
FAR_NORTH = 75
"""Degrees of latitude up to which a map is centred: further on everything is drawn too wide."""
HEIGHTS = (26.0, 44.0)
"""Degrees of latitude from the lower to the upper edge of a map: least and most."""
MOST_LABELS = 255


@dataclass(frozen=True)
class View:
    """A part of the world: its middle, and degrees of latitude from top to bottom."""

    lon: float
    lat: float
    height: float


@dataclass(frozen=True)
class Atlas:
    """The countries, and the cells that they are in.

    Attributes:
        countries: label n is the n-th of these, from 1.
        cells: numbers of the countries of each cell, by the name of the cell.
    """

    countries: Sequence[Country]
    cells: Mapping[str, Sequence[int]]

    def held_out(self, share: float) -> frozenset[str]:
        """The held-out cells."""
        return frozenset(cell for cell in self.cells if held_out(f"atlas {cell}", share))

    def labels_of(self, cells: frozenset[str]) -> frozenset[int]:
        """Labels of the countries of some cells."""
        return frozenset(number + 1 for cell in cells for number in self.cells[cell])

    def look(self, cell: str, rng: random.Random) -> View:
        """A map of a cell: around the middle of its countries, more or less."""
        centres = [self.countries[number].centre for number in self.cells[cell]]
        lon, lat = (sum(values) / len(values) for values in zip(*centres, strict=True))
        height = rng.uniform(*HEIGHTS)
        lat = max(-FAR_NORTH, min(FAR_NORTH, lat + rng.uniform(-0.1, 0.1) * height))
        return View(lon + rng.uniform(-0.1, 0.1) * height, lat, height)

    def raster(self, view: View, size: tuple[int, int]) -> NDArray[np.uint8]:
        """The label of each pixel, H x W; 0 is water.

        Args:
            view: what is shown.
            size: W and H.
        """
        sheet = Image.new("L", size, 0)
        pen = ImageDraw.Draw(sheet)
        # What lies in a hole of another country is drawn after it.
        numbered = list(enumerate(self.countries, 1))
        numbered.sort(key=lambda pair: -max(len(polygon) for polygon in pair[1].polygons))
        for label, country in numbered:
            for outer, *holes in country.polygons:
                pen.polygon(_project(outer, view, size), fill=label)
                for hole in holes:
                    pen.polygon(_project(hole, view, size), fill=0)
        return np.array(sheet)


@cache
def load_atlas(folder: Path) -> Atlas:
    """Read the atlas of an unpacked package, once per process.

    Raises:
        DataError: its file is missing or of another layout.
    """
    countries = read_countries(folder / FILE)
    if not 1 < len(countries) <= MOST_LABELS:
        raise DataError(f"{folder / FILE}: has {len(countries)} countries, expected 2 to 255")
    cells: dict[str, list[int]] = defaultdict(list)
    for number, country in enumerate(countries):
        lon, lat = country.centre
        cells[f"{_cell(lon, CELL[0], 'WE')} {_cell(lat, CELL[1], 'SN')}"].append(number)
    return Atlas(countries, dict(sorted(cells.items())))


def _cell(degrees: float, step: int, names: str) -> str:
    """Such as E030: the edge of the cell that is nearer to minus infinity."""
    edge = math.floor(degrees / step) * step
    return f"{names[edge >= 0]}{abs(edge):03d}"


def _project(ring: Ring, view: View, size: tuple[int, int]) -> list[tuple[float, float]]:
    """Pixels of a ring: as wide as it is in the middle of the map."""
    scale = size[1] / view.height
    x = (ring[:, 0] - view.lon) * math.cos(math.radians(view.lat)) * scale + size[0] / 2
    y = (view.lat - ring[:, 1]) * scale + size[1] / 2
    return list(zip(x.tolist(), y.tolist(), strict=True))
