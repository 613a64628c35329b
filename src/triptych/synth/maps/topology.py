"""Countries of a TopoJSON file (npm package `world-atlas`, from Natural Earth)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from triptych.errors import DataError

Ring: TypeAlias = NDArray[np.float64]
"""Points x 2: longitude and latitude in degrees; the last point is the first one."""


@dataclass(frozen=True)
class Country:
    """A country.

    Attributes:
        polygons: each an outer ring, followed by its holes.
    """

    name: str
    polygons: tuple[tuple[Ring, ...], ...]

    @property
    def centre(self) -> tuple[float, float]:
        """Longitude and latitude of the middle of its largest polygon."""
        areas, centres = zip(*(_centroid(polygon[0]) for polygon in self.polygons), strict=True)
        lon, lat = centres[int(np.argmax(areas))]
        return float(lon), float(lat)


def read_countries(path: Path) -> list[Country]:
    """The countries of a TopoJSON file, in its order.

    Raises:
        DataError: the file is missing or of another layout.
    """
    try:
        topology = json.loads(path.read_text(encoding="utf-8"))
        arcs = _decode_arcs(topology)
        return [
            Country(geometry["properties"]["name"], _polygons(geometry, arcs))
            for geometry in topology["objects"]["countries"]["geometries"]
            if geometry["type"] in ("Polygon", "MultiPolygon")
        ]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file in the package") from None
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a TopoJSON file of countries ({error!r})") from None


def _decode_arcs(topology: dict[str, Any]) -> list[Ring]:
    """Arcs in degrees: the first point and then differences, in steps of the quantisation."""
    scale, shift = topology["transform"]["scale"], topology["transform"]["translate"]
    steps = (np.asarray(arc, dtype=np.float64).cumsum(axis=0) for arc in topology["arcs"])
    return [points * scale + shift for points in steps]


def _polygons(geometry: dict[str, Any], arcs: Sequence[Ring]) -> tuple[tuple[Ring, ...], ...]:
    polygons = [geometry["arcs"]] if geometry["type"] == "Polygon" else geometry["arcs"]
    return tuple(tuple(_ring(numbers, arcs) for numbers in polygon) for polygon in polygons)


def _ring(numbers: Sequence[int], arcs: Sequence[Ring]) -> Ring:
    """Arcs one after the other; ``~n`` is arc n backwards, and neighbours share an end point."""
    parts = [arcs[number] if number >= 0 else arcs[~number][::-1] for number in numbers]
    return np.concatenate([parts[0], *(part[1:] for part in parts[1:])])


def _centroid(ring: Ring) -> tuple[float, tuple[float, float]]:
    """Area and centre of a ring on the plane of longitude and latitude."""
    x, y = ring[:, 0], ring[:, 1]
    cross = x[:-1] * y[1:] - x[1:] * y[:-1]
    area = float(cross.sum()) / 2
    if abs(area) < 1e-9:
        return 0.0, (float(x.mean()), float(y.mean()))
    centre_x = float(((x[:-1] + x[1:]) * cross).sum()) / (6 * area)
    centre_y = float(((y[:-1] + y[1:]) * cross).sum()) / (6 * area)
    return abs(area), (centre_x, centre_y)
