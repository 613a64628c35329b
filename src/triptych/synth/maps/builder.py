"""The data set of maps: regions with numbered marks, and questions that their exact masks answer.

Files: ``train`` and ``test-view`` show the same regions on different maps, so that their names can
be asked; ``test`` shows maps whose regions are marked nowhere else.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from triptych.data.schema import ImagePart, Record
from triptych.synth.album import Album, Sample
from triptych.synth.maps.atlas import FILE, load_atlas
from triptych.synth.maps.chart import (
    COLOURS,
    LEAST_AREA,
    Region,
    draw_marks,
    find_borders,
    find_neighbours,
    find_region,
    paint,
)
from triptych.synth.maps.kgeography import FOLDER, read_sheet
from triptych.synth.maps.questions import Marked, ask
from triptych.synth.packages import Package
from triptych.synth.question import Asked
from triptych.synth.split import held_out

VERSION = 1
"""Raised when the same plan makes other files, so that a folder built before is built anew."""
ATLAS = Package(
    "npm",
    "world-atlas",
    "2.0.2",
    "032e7765f2ce00edaeafec23ff22bc3b77e42987c257da944cc585b452c05b97",
    "ISC",
    2277546,
)
KGEOGRAPHY = Package(
    "deb",
    "kgeography-data",
    "4:22.12.3-1",
    "1cdaf45dea7cbf1682a05109b4e9299934f0a60ca8866fa957cf4d9dcfe3982a",
    "GPL-2.0-or-later",
    10865148,
    copyleft=True,
)
LEAST_MARKS, MOST_MARKS = 3, 9
LEAST_REGIONS = 2
LINE = 3
"""Reach of a touch over a line that the picture itself has between regions."""
Split: TypeAlias = Literal["train", "view", "test"]
FILES: Mapping[Split, str] = {
    "train": "train.jsonl",
    "view": "test-view.jsonl",
    "test": "test.jsonl",
}


def packages(*, copyleft: bool) -> tuple[Package, ...]:
    """The packages that the set is made of."""
    return (ATLAS, KGEOGRAPHY) if copyleft else (ATLAS,)


@dataclass(frozen=True)
class Maps:
    """Questions about marked regions.

    Attributes:
        atlas: folder of the unpacked `world-atlas`.
        kgeography: folder of the unpacked `kgeography-data`, or None.
        seed: of the training files; the held-out files are the same for every seed.
        views: maps of each cell of the world, or of each map of KGeography.
        share: of the cells and maps, and of the views of the others, that is held out.
        size: W and H of a map of the world in pixels; those of KGeography keep theirs.
    """

    atlas: Path
    kgeography: Path | None = None
    seed: int = 0
    views: int = 12
    share: float = 0.2
    size: tuple[int, int] = (448, 336)
    name: str = "maps"

    def describe(self) -> Mapping[str, object]:
        """All that decides what is made."""
        used = packages(copyleft=self.kgeography is not None)
        plain = {name: vars(self)[name] for name in ("seed", "views", "share", "size")}
        return {"version": VERSION, **plain, "packages": [one.describe() for one in used]}

    def items(self) -> Sequence[str]:
        """The cells of the atlas, and the maps of KGeography by their file."""
        cells = [f"atlas {cell}" for cell in load_atlas(self.atlas).cells]
        if self.kgeography is None:
            return cells
        return [*cells, *(path.name for path in sorted((self.kgeography / FOLDER).glob("*.kgm")))]

    def make(self, item: str, album: Album, rng: random.Random) -> Iterator[Sample]:
        """Make the maps of one cell, or of one map of KGeography."""
        if item.startswith("atlas "):
            yield from self._atlas(item, album)
        elif self.kgeography is not None:
            yield from self._sheet(item, self.kgeography / FOLDER / item, album)

    def _atlas(self, item: str, album: Album) -> Iterator[Sample]:
        atlas = load_atlas(self.atlas)
        out = atlas.held_out(self.share)
        cell = item.removeprefix("atlas ")
        mine = out if cell in out else frozenset(atlas.cells) - out
        allowed = sorted(atlas.labels_of(mine))
        for number in range(self.views):
            split, rng = self._split(item, number, out_of_training=cell in out)
            labels = atlas.raster(atlas.look(cell, rng), self.size)
            regions = _found(labels, {n: (atlas.countries[n - 1].name, None) for n in allowed})
            chart = Chart(labels, find_borders(labels), find_neighbours(labels, 1))
            source = Source(ATLAS, f"{FILE}", "country", f"{item} view {number}")
            yield from _samples(chart, regions, source, split, album, rng)

    def _sheet(self, item: str, path: Path, album: Album) -> Iterator[Sample]:
        sheet = read_sheet(path)
        names = {n: (one.name, one.capital) for n, one in enumerate(sheet.divisions, 1)}
        regions = _found(sheet.labels, names)
        chart = Chart(sheet.labels, sheet.borders, find_neighbours(sheet.labels, LINE))
        for number in range(self.views):
            split, rng = self._split(item, number, out_of_training=held_out(item, self.share))
            source = Source(KGEOGRAPHY, f"{FOLDER}/{item}", "region", f"{item} view {number}")
            yield from _samples(chart, regions, source, split, album, rng)

    def _split(
        self, item: str, number: int, *, out_of_training: bool
    ) -> tuple[Split, random.Random]:
        split: Split = "train"
        if out_of_training:
            split = "test"
        elif held_out(f"{item} {number}", self.share / 2):
            split = "view"
        seed = self.seed if split == "train" else "held out"
        return split, random.Random(f"{seed} maps {item} {number}")


DEFAULT = Maps(Path())


@dataclass(frozen=True)
class Chart:
    """What a map is drawn from.

    Attributes:
        labels: H x W, the region of each pixel.
        borders: H x W, the pixels of lines.
        neighbours: pairs of labels, the smaller one first.
    """

    labels: NDArray[np.uint8]
    borders: NDArray[np.bool_]
    neighbours: frozenset[tuple[int, int]]


@dataclass(frozen=True)
class Source:
    """Where a map comes from: package, file in it, what its regions are, and a name of its own."""

    package: Package
    file: str
    what: str
    name: str


def _found(labels: NDArray[np.uint8], names: Mapping[int, tuple[str, str | None]]) -> list[Region]:
    """The regions among ``names`` (name and capital by label) that can be marked."""
    areas = np.bincount(labels.ravel(), minlength=256)
    found = (
        find_region(labels, label, *named)
        for label, named in names.items()
        if areas[label] >= LEAST_AREA
    )
    return [one for one in found if one is not None]


def _samples(
    chart: Chart,
    regions: Sequence[Region],
    source: Source,
    split: Split,
    album: Album,
    rng: random.Random,
) -> Iterator[Sample]:
    if len(regions) < LEAST_REGIONS:
        album.reject(source.name, f"{len(regions)} regions are large enough to be marked")
        return
    count = min(len(regions), rng.randint(LEAST_MARKS, MOST_MARKS))
    shown = rng.sample(list(regions), count)
    colours = {int(label): rng.choice(list(COLOURS)) for label in np.unique(chart.labels) if label}
    places = [one.place for one in shown]
    image = album.add(draw_marks(paint(chart.labels, colours, chart.borders), places))
    marked = Marked(shown, colours, chart.neighbours, source.what)
    for asked in ask(marked, rng, named=split != "test"):
        yield Sample(FILES[split], to_record(asked, image, marked, source))


def to_record(asked: Asked, image: ImagePart, marked: Marked, source: Source) -> Record:
    """Write a question about a map as a record without an id."""
    return Record(
        asked.messages(image),
        source=source.package.source,
        license=source.package.license,
        metadata={
            "file": source.file,
            "map": source.name,
            "marks": [{"name": one.name, "place": list(one.place)} for one in marked.regions],
        },
    )
