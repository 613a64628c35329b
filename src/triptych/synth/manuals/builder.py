"""The data set of manuals: interleaved documents of two to six pictures with their text."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from triptych.data.schema import Message, Part, Record, TextPart
from triptych.errors import DataError
from triptych.images.decode import image_size
from triptych.synth.album import Album, Sample
from triptych.synth.manuals.library import MANUALS, Library, Manual, find_picture, open_library
from triptych.synth.manuals.page import Part as PagePart
from triptych.synth.manuals.page import Picture, read_page
from triptych.synth.manuals.windows import Limits, windows
from triptych.synth.packages import Package, Shelf
from triptych.synth.split import held_out

VERSION = 1
"""Raised when the same plan makes other files, so that a folder built before is built anew."""
LEAST_SIDE = 48
"""Pixels of the shorter side of a picture that is more than an icon."""


def packages(*, copyleft: bool) -> tuple[Package, ...]:
    """The packages that the set is made of."""
    return tuple(one.package for one in MANUALS if copyleft or not one.package.copyleft)


def open_packages(shelf: Shelf, *, copyleft: bool) -> tuple[tuple[str, Path], ...]:
    """Fetch and unpack the packages: the folder of each by its name."""
    return tuple((one.name, shelf.open(one)) for one in packages(copyleft=copyleft))


@dataclass(frozen=True)
class Manuals:
    """Windows of HTML pages as documents.

    Pages that share a picture are on one side of the split.

    Attributes:
        folders: of the unpacked packages, by name.
        seed: nothing is drawn at random; every seed makes the same files.
        share: of the pages that is held out.
        limits: how much text a window has.
    """

    folders: tuple[tuple[str, Path], ...]
    seed: int = 0
    share: float = 0.1
    limits: Limits = field(default_factory=Limits)
    name: str = "manuals"

    def describe(self) -> Mapping[str, object]:
        """All that decides what is made."""
        used = [one.package.describe() for one, _ in self._manuals()]
        return {
            "version": VERSION,
            "share": self.share,
            "limits": asdict(self.limits),
            "packages": used,
        }

    def items(self) -> Sequence[str]:
        """The pages with several pictures, by package and path."""
        return [
            f"{manual.package.name} {page}"
            for manual, folder in self._manuals()
            for page in _library(manual, folder).pages
        ]

    def make(self, item: str, album: Album, rng: random.Random) -> Iterator[Sample]:
        """Make the windows of one page.

        Raises:
            DataError: a picture of the page is missing or damaged.
        """
        name, _, page = item.partition(" ")
        for manual, folder in self._manuals():
            if manual.package.name == name:
                library = _library(manual, folder)
                out = held_out(f"{name} {library.family[page]}", self.share)
                for document in self._documents(manual, library, page, album):
                    yield Sample("test.jsonl" if out else "train.jsonl", document)

    def _manuals(self) -> Iterator[tuple[Manual, Path]]:
        by_name = dict(self.folders)
        for manual in MANUALS:
            if manual.package.name in by_name:
                yield manual, by_name[manual.package.name]

    def _documents(
        self, manual: Manual, library: Library, page: str, album: Album
    ) -> Iterator[Record]:
        html = (library.root / page).read_text(encoding="utf-8", errors="replace")
        found: dict[Picture, Path] = {}
        parts: list[PagePart] = []
        for part in read_page(html, manual.body):
            if isinstance(part, str):
                parts.append(part)
                continue
            path = find_picture(part.source, page, library.root)
            if path is None or path in library.frequent:
                continue
            if not path.is_file():
                raise DataError(f"{page}: the picture {part.source} is missing")
            if min(image_size(path)) >= LEAST_SIDE:
                found[part] = path
                parts.append(part)
        for window in windows(parts, self.limits):
            content: list[Part] = []
            for part in _joined(window):
                shown = TextPart(part) if isinstance(part, str) else album.add_file(found[part])
                content.append(shown)
            yield _to_record(manual, page, content)


def _to_record(manual: Manual, page: str, content: Sequence[Part]) -> Record:
    return Record(
        (Message("document", tuple(content)),),
        source=manual.package.source,
        license=manual.package.license,
        metadata={"file": f"{manual.folder}/{page}"},
    )


def _joined(window: Sequence[PagePart]) -> Iterator[PagePart]:
    """Paragraphs between two pictures as one text."""
    texts: list[str] = []
    for part in window:
        if isinstance(part, str):
            texts.append(part)
            continue
        if texts:
            yield "\n\n".join(texts) + "\n"
            texts = []
        yield part
    if texts:
        yield "\n" + "\n\n".join(texts)


def _library(manual: Manual, folder: Path) -> Library:
    return open_library(folder / manual.folder, manual.without)
