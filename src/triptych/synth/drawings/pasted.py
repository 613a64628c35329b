"""Set-of-Mark on pasted objects: drawings on a ground, with exact masks, boxes and names.

Held-out pictures show drawings of held-out concepts on grounds that no training picture has.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from PIL import Image

from triptych.data.schema import Record
from triptych.errors import DataError
from triptych.synth.album import Album, Sample
from triptych.synth.drawings.builder import packages
from triptych.synth.drawings.catalogue import Folders, Role, load_catalogue
from triptych.synth.drawings.drawing import Drawing
from triptych.synth.drawings.render import render
from triptych.synth.marks.drawing import Thing
from triptych.synth.marks.grounds import WALLPAPERS, Ground, find_grounds
from triptych.synth.marks.objects import Asking, ask_about
from triptych.synth.provenance import join_licenses, join_sources

VERSION = 1
"""Raised when the same plan makes other files, so that a folder built before is built anew."""
PORTION = 25
"""Pictures of one item of work."""
LEAST, MOST = 4, 8
"""Things on a picture."""
SIDES = (0.16, 0.3)
"""Side of a thing in sides of the picture: least and most."""
TRIES = 30
"""Places tried for a thing before it is left out."""
ROLES: Mapping[str, Role] = {"train": "train", "test": "concept"}


@dataclass(frozen=True)
class Pasted:
    """Marked things on grounds.

    Attributes:
        folders: of the unpacked packages of drawings, by name.
        wallpapers: folder of the unpacked wallpapers, or None for patterns alone.
        seed: of the training files; the held-out files are the same for every seed.
        size: side of a picture in pixels.
        share: of the concepts and wallpapers that is held out.
        train, test: number of pictures.
        asking: how marks are shown and asked about.
    """

    folders: Folders
    wallpapers: Path | None = None
    seed: int = 0
    size: int = 384
    share: float = 0.15
    train: int = 2000
    test: int = 200
    asking: Asking = field(default_factory=Asking)
    name: str = "pasted"

    def describe(self) -> Mapping[str, object]:
        """All that decides what is made."""
        names = {name for name, _ in self.folders}
        used = [one.describe() for one in packages(copyleft=True) if one.name in names]
        if self.wallpapers is not None:
            used.append(WALLPAPERS.describe())
        plain = {name: vars(self)[name] for name in ("seed", "size", "share", "train", "test")}
        return {"version": VERSION, **plain, "asking": asdict(self.asking), "packages": used}

    def items(self) -> Sequence[str]:
        """Portions of the pictures of each side."""
        return [
            f"{split}/{number:04d}"
            for split, count in (("train", self.train), ("test", self.test))
            for number in range(-(-count // PORTION))
        ]

    def make(self, item: str, album: Album, rng: random.Random) -> Iterator[Sample]:
        """Make some pictures and ask about their marks."""
        split, _, portion = item.partition("/")
        drawings = load_catalogue(self.folders, self.share).roles[ROLES[split]]
        unseen = split == "test"
        grounds = [one for one in find_grounds(self.wallpapers, self.share) if one.unseen == unseen]
        start = int(portion) * PORTION
        count = self.test if unseen else self.train
        for number in range(start, min(start + PORTION, count)):
            drawn = random.Random(f"{'held out' if unseen else self.seed} pasted {number}")
            try:
                ground = drawn.choice(grounds)
                picture, things, shown = self._paste(drawings, ground, drawn)
            except DataError as error:
                album.reject(f"picture {split} {number}", str(error))
                continue
            records = ask_about(picture, things, album, self.asking, drawn, named=not unseen)
            for messages, kind in records:
                record = Record(messages, metadata={"concepts": [one.concept.key for one in shown]})
                yield Sample(f"{split}-{kind}.jsonl", _stated(record, shown, ground))

    def _paste(
        self, drawings: Sequence[Drawing], ground: Ground, rng: random.Random
    ) -> tuple[Image.Image, list[Thing], list[Drawing]]:
        """A picture, what is on it, and the drawings of these things.

        Raises:
            DataError: a drawing cannot be drawn, or fewer than ``LEAST`` found a place.
        """
        picture = ground.draw(self.size, rng)
        things: list[Thing] = []
        shown: list[Drawing] = []
        for one in rng.sample(drawings, min(len(drawings), rng.randint(LEAST, MOST))):
            side = round(self.size * rng.uniform(*SIDES))
            place = _free_place(things, side, self.size, rng)
            if place is None:
                continue
            drawn = render(one.art, side, loose=one.loose)
            picture.paste(drawn, place, drawn)
            mask = Image.new("L", picture.size)
            mask.paste(drawn.getchannel("A").point([255 * (n > 127) for n in range(256)]), place)
            box = mask.getbbox()
            if box is None:
                raise DataError(f"{one.style}: {one.file} is nearly transparent")
            things.append(Thing(one.name, (box[0], box[1], box[2], box[3]), mask))
            shown.append(one)
        if len(things) < LEAST:
            raise DataError(f"{len(things)} things found a place, fewer than {LEAST}")
        return picture, things, shown


def _free_place(
    things: Sequence[Thing], side: int, size: int, rng: random.Random
) -> tuple[int, int] | None:
    """The upper left corner of a square that touches no box."""
    for _ in range(TRIES):
        left, top = rng.randint(0, size - side), rng.randint(0, size - side)
        if all(
            left + side <= one.box[0]
            or one.box[2] <= left
            or top + side <= one.box[1]
            or one.box[3] <= top
            for one in things
        ):
            return left, top
    return None


def _stated(record: Record, shown: Sequence[Drawing], ground: Ground) -> Record:
    """The record with source, licence and files of all that it shows."""
    files = [f"{one.source}: {one.file}" for one in shown]
    about = {**(record.metadata or {}), "files": files, "ground": ground.name}
    return Record(
        record.messages,
        source=join_sources([ground.source, *(one.source for one in shown)]),
        license=join_licenses([ground.license, *(one.license for one in shown)]),
        metadata=about,
    )


DEFAULT = Pasted(())
