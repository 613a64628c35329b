"""Set-of-Mark from any annotated images: files of objects with boxes or polygons.

The entries are those of the reader ``detection`` (docs/data.md): ``image``, ``width``, ``height``
and ``objects``, each with ``label`` and ``box``, and a ``polygon`` of [x, y] where there is one; or
a COCO file. Each image is shown with its marks drawn, or as it is with the marks as text.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from triptych.data.readers.base import Table
from triptych.data.readers.objects import open_objects
from triptych.data.schema import Message, Record
from triptych.errors import DataError
from triptych.images.decode import open_image
from triptych.synth.album import Album, Sample
from triptych.synth.files import digest_of
from triptych.synth.marks.drawing import (
    Style,
    Thing,
    Told,
    choose_things,
    draw_marks,
    tell_marks,
)
from triptych.synth.marks.questions import ask_marks
from triptych.synth.split import held_out

VERSION = 1
"""Raised when the same plan makes other files, so that a folder built before is built anew."""
PORTION = 25
STYLES: tuple[Style, ...] = ("box", "point", "outline")
TOLD: tuple[Told, ...] = ("boxes", "points")
LEAST = 2
"""Things in a picture that is used."""
SMALLEST = 0.002
"""Share of the picture of a thing that is marked."""


@dataclass(frozen=True)
class Asking:
    """How marks are shown and asked about.

    Attributes:
        most: marks in a picture.
        questions: about a picture, at most; no kind comes twice.
        as_text: share of the pictures that are shown as they are, with the marks as text.
    """

    most: int = 10
    questions: int = 4
    as_text: float = 0.34


@dataclass(frozen=True)
class MarkedObjects:
    """The builder; see the top of this file.

    Attributes:
        file: the annotations.
        images: folder that relative image paths start from; the file's own where it is None.
        source, license: written into every record.
        seed: of everything drawn at random.
        asking: how marks are shown and asked about.
        test_share: of the images, about.
    """

    file: Path
    images: Path | None
    source: str
    license: str
    seed: int = 0
    asking: Asking = Asking()
    test_share: float = 0.1
    name: str = "marks"

    def describe(self) -> Mapping[str, object]:
        """All that decides what is made."""
        plain = {key: value for key, value in vars(self).items() if key not in ("file", "images")}
        return plain | {
            "version": VERSION,
            "file": digest_of(self.file),
            "asking": vars(self.asking),
        }

    def items(self) -> Sequence[str]:
        """Portions of the entries."""
        return [str(start) for start in range(0, len(_table(self.file)), PORTION)]

    def make(self, item: str, album: Album, rng: random.Random) -> Iterator[Sample]:
        """Ask about the pictures of a portion."""
        table, start = _table(self.file), int(item)
        for index in range(start, min(start + PORTION, len(table))):
            try:
                entry = _entry(table.read(index), table.where(index))
                picture, found = self._read(entry, table.where(index))
            except DataError as error:
                album.reject(table.where(index), str(error))
                continue
            things = choose_things(found, self.asking.most, rng)
            if len(things) < LEAST:
                reason = f"has {len(things)} things that can be marked, fewer than {LEAST}"
                album.reject(table.where(index), reason)
                continue
            name = str(entry["image"])
            split = "test" if held_out(name, self.test_share) else "train"
            about = {"file": name, "things": [thing.label for thing in things]}
            for record in ask_about(picture, things, album, self.asking, rng):
                messages, kind = record
                made = Record(messages, source=self.source, license=self.license, metadata=about)
                yield Sample(f"{split}-{kind}.jsonl", made)

    def _read(self, entry: Mapping[str, Any], where: str) -> tuple[Image.Image, list[Thing]]:
        picture = open_image(str(entry["image"]), root=self.images or self.file.parent)
        stated = entry.get("width"), entry.get("height")
        if stated != picture.size:
            raise DataError(
                f"{where}: {entry['image']} is {picture.width}x{picture.height} pixels, but its "
                f"annotation says {stated[0]}x{stated[1]}"
            )
        objects = entry.get("objects")
        if not isinstance(objects, list):
            raise DataError(f"{where}: 'objects' must be a list")
        things = [
            _thing(one, picture.size, f"{where}: objects[{number}]")
            for number, one in enumerate(objects)
        ]
        area = SMALLEST * picture.width * picture.height
        return picture, [one for one in things if _area(one) >= area]


def ask_about(
    picture: Image.Image,
    things: Sequence[Thing],
    album: Album,
    asking: Asking,
    rng: random.Random,
    *,
    named: bool = True,
) -> Iterator[tuple[tuple[Message, ...], str]]:
    """Messages about a picture, and how it shows its marks: ``drawn`` or ``text``."""
    if rng.random() < asking.as_text:
        kind, shown = "text", album.add(picture)
        told = tell_marks(things, picture.size, rng.choice(TOLD)) + "\n"
    else:
        kind, told = "drawn", ""
        shown = album.add(draw_marks(picture, things, rng.choice(STYLES)))
    for asked in ask_marks(things, picture.size, asking.questions, rng, named=named):
        yield replace(asked, question=told + asked.question).messages(shown), kind


def _table(file: Path) -> Table:
    return _open(file, file.stat().st_mtime_ns)


@cache
def _open(file: Path, _: int) -> Table:
    return open_objects(file)


def _entry(entry: object, where: str) -> Mapping[str, Any]:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("image"), str):
        raise DataError(
            f"{where}: an object with 'image', 'width', 'height', 'objects' is expected"
        )
    return entry


def _thing(entry: object, size: tuple[int, int], where: str) -> Thing:
    fields: Mapping[str, Any] = entry if isinstance(entry, Mapping) else {}
    label, polygon = fields.get("label"), fields.get("polygon")
    if not isinstance(label, str) or not label.strip():
        raise DataError(f"{where}: 'label' must be a text")
    box = _numbers(fields.get("box"), 4, f"{where}: 'box'")
    left, right = max(0.0, box[0]), min(float(size[0]), box[2])
    top, bottom = max(0.0, box[1]), min(float(size[1]), box[3])
    if left >= right or top >= bottom:
        raise DataError(f"{where}: the box {box} is not inside the picture")
    mask = None
    if polygon is not None:
        if not isinstance(polygon, list) or len(polygon) < 3:
            raise DataError(f"{where}: 'polygon' must be a list of at least 3 points")
        points = [tuple(_numbers(one, 2, f"{where}: 'polygon'")) for one in polygon]
        mask = Image.new("L", size)
        ImageDraw.Draw(mask).polygon(points, fill=255)
        if mask.getbbox() is None:
            raise DataError(f"{where}: the polygon is not inside the picture")
    return Thing(label.strip(), (left, top, right, bottom), mask)


def _numbers(values: object, count: int, where: str) -> list[float]:
    if not isinstance(values, list) or len(values) != count:
        raise DataError(f"{where} must be {count} numbers")
    if not all(isinstance(one, int | float) and abs(one) < 1e9 for one in values):
        raise DataError(f"{where} must be {count} numbers")
    return [float(one) for one in values]


def _area(thing: Thing) -> float:
    left, top, right, bottom = thing.box
    return (right - left) * (bottom - top)
