"""The data set of drawings: emoji and clip art, alone and several on a sheet."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from triptych.data.schema import ImagePart, Record
from triptych.errors import DataError
from triptych.synth.album import Album, Sample
from triptych.synth.drawings.catalogue import COPYLEFT, CORE, Folders, Role, load_catalogue
from triptych.synth.drawings.drawing import Drawing
from triptych.synth.drawings.questions import Wrong, ask, find_wrong
from triptych.synth.drawings.render import flatten, render
from triptych.synth.drawings.scenes import Scene, crowd, quarters
from triptych.synth.packages import Package, Shelf
from triptych.synth.provenance import join_licenses, join_sources
from triptych.synth.question import Asked

VERSION = 1
"""Raised when the same plan makes other files, so that a folder built before is built anew."""
PORTION = 25
"""Drawings, or scenes, of one item of work."""
FILES: Mapping[Role, str] = {
    "train": "train.jsonl",
    "design": "test-design.jsonl",
    "concept": "test-concept.jsonl",
    "style": "test-style.jsonl",
}
SCENES: Mapping[str, tuple[Role, str]] = {
    "train": ("train", "train-scenes.jsonl"),
    "test": ("concept", "test-scenes.jsonl"),
}
LEFT_OUT = "left out of"


def packages(*, copyleft: bool) -> tuple[Package, ...]:
    """The packages that the set is made of."""
    return (*CORE, *COPYLEFT) if copyleft else CORE


def open_packages(shelf: Shelf, *, copyleft: bool) -> Folders:
    """Fetch and unpack the packages: the folder of each by its name."""
    return tuple((one.name, shelf.open(one)) for one in packages(copyleft=copyleft))


@dataclass(frozen=True)
class Drawings:
    """Questions about emoji and clip art, with held-out designs (T1) and concepts (T2).

    Attributes:
        folders: of the unpacked packages, by name.
        seed: of the training files; the held-out files are the same for every seed.
        size: side of a picture in pixels.
        share: of the concepts, and of the designs of the others, that is held out.
        scenes, test_scenes: number of sheets with several drawings.
        limit: only so many drawings of each role; None for all.
    """

    folders: Folders
    seed: int = 0
    size: int = 224
    share: float = 0.15
    scenes: int = 2000
    test_scenes: int = 200
    limit: int | None = None
    name: str = "drawings"

    def describe(self) -> Mapping[str, object]:
        """All that decides what is made."""
        names = {name for name, _ in self.folders}
        used = [one.describe() for one in packages(copyleft=True) if one.name in names]
        plain = {key: value for key, value in vars(self).items() if key not in ("folders", "name")}
        return {"version": VERSION, **plain, "packages": used}

    def items(self) -> Sequence[str]:
        """Portions of the drawings of each role and of scenes, and what each package lost."""
        catalogue = load_catalogue(self.folders, self.share)
        counts: dict[str, int] = {role: len(self._drawings(role)) for role in FILES}
        counts |= {"scenes train": self.scenes, "scenes test": self.test_scenes}
        portions = [
            f"{what}/{number:04d}"
            for what, count in counts.items()
            for number in range(-(-count // PORTION))
        ]
        return [*portions, *(f"{LEFT_OUT} {name}" for name in catalogue.rejected)]

    def make(self, item: str, album: Album, rng: random.Random) -> Iterator[Sample]:
        """Make the samples of one item."""
        if item.startswith(LEFT_OUT):
            name = item.removeprefix(LEFT_OUT).strip()
            album.rejected += load_catalogue(self.folders, self.share).rejected[name]
            return
        what, _, number = item.rpartition("/")
        start = int(number) * PORTION
        if what.startswith("scenes"):
            split = what.split()[1]
            count = min(PORTION, (self.scenes if split == "train" else self.test_scenes) - start)
            yield from self._scenes(split, start, count, album)
            return
        for role in FILES:
            if role == what:
                indices = range(start, min(start + PORTION, len(self._drawings(role))))
                yield from self._singles(role, indices, album)

    def _singles(self, role: Role, indices: range, album: Album) -> Iterator[Sample]:
        drawings = self._drawings(role)
        wrong = _wrong(self.folders, self.share, role, self.limit)
        wordnet = load_catalogue(self.folders, self.share).wordnet
        for index in indices:
            one = drawings[index]
            rng = self._rng(role, f"{one.style} {one.file}")
            try:
                picture = flatten(render(one.art, self.size, loose=one.loose))
            except DataError as error:
                album.reject(f"{one.style}: {one.file}", str(error))
                continue
            image = album.add(picture)
            for question in ask(drawings, index, role, wrong, wordnet, rng):
                yield Sample(FILES[role], to_record(question, image, [one], role))

    def _scenes(self, split: str, start: int, count: int, album: Album) -> Iterator[Sample]:
        role, file = SCENES[split]
        drawings = self._drawings(role)
        for number in range(start, start + count):
            rng = self._rng(role, f"scene {number}")
            try:
                if number % 2:
                    scene = crowd(drawings, self.size, rng)
                else:
                    scene = quarters(drawings, self.size, rng, named=split == "train")
                image = album.add(scene.draw())
            except DataError as error:
                album.reject(f"scene {split} {number}", str(error))
                continue
            for asked in scene.questions:
                yield Sample(file, to_record(asked, image, _shown(scene), role))

    def _drawings(self, role: Role) -> Sequence[Drawing]:
        return _limited(load_catalogue(self.folders, self.share).roles[role], self.limit)

    def _rng(self, role: Role, what: str) -> random.Random:
        return random.Random(f"{self.seed if role == 'train' else 'held out'} drawings {what}")


def to_record(asked: Asked, image: ImagePart, shown: Sequence[Drawing], role: Role) -> Record:
    """Write a question about a picture as a record without an id.

    Args:
        asked: the question.
        image: the picture.
        shown: the drawings on it.
        role: on which side of the split they are.
    """
    return Record(
        asked.messages(image),
        source=join_sources(one.source for one in shown),
        license=join_licenses(one.license for one in shown),
        metadata={
            "role": role,
            "concepts": [one.concept.key for one in shown],
            "files": [f"{one.source}: {one.file}" for one in shown],
        },
    )


@cache
def _wrong(folders: Folders, share: float, role: Role, limit: int | None) -> Wrong:
    catalogue = load_catalogue(folders, share)
    return find_wrong(_limited(catalogue.roles[role], limit), catalogue.wordnet)


def _limited(drawings: Sequence[Drawing], limit: int | None) -> Sequence[Drawing]:
    """So many drawings from all over the list."""
    if limit is None or limit >= len(drawings):
        return drawings
    return [drawings[number * len(drawings) // limit] for number in range(limit)]


def _shown(scene: Scene) -> list[Drawing]:
    """The drawings of a scene, each once."""
    return list({id(one.drawing): one.drawing for one in scene.placed}.values())
