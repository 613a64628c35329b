"""Reading pages of PDF files: any folder of them becomes questions with known answers.

The pictures are rendered at several sizes; the text layer gives the answers. SPHINX-X (arXiv
2402.05935) trains on such pages and published no builder. Pages are cleaned: mathematics, pages
with little on them, and pages whose text layer is not what is printed are left out, each with its
reason. Files are held out whole, so that no page is tested of which a neighbour was trained on.

Training pages come at one size each, at which their print can be read; held-out words are asked
about at every size, so that scores by category (``448 px``) say what print a model can read.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from triptych.data.schema import ImagePart, Message, Record
from triptych.errors import DataError
from triptych.synth.album import Album, Sample
from triptych.synth.files import digest_of
from triptych.synth.ocr.pdf import Page, PdfFile, Word, open_pdf
from triptych.synth.ocr.tasks import PageTasks
from triptych.synth.ocr.text import why_unusable
from triptych.synth.question import Asked
from triptych.synth.split import held_out

VERSION = 1
"""Raised when the same plan makes other files, so that a folder built before is built anew."""
CHECKED = 1024
"""Pixels of the longer side at which the text layer is compared with what is printed."""
CONTRAST = 40
MOST_UNPRINTED = 0.05


@dataclass(frozen=True)
class Collection:
    """PDF files that come from one place.

    Attributes:
        source: what records name as their source.
        license: of the files.
        folder: they lie anywhere below it.
        plan: what decides the files, where a package is pinned; None for a folder of the user's,
            whose files are looked into.
        only: beginnings of the paths used, below ``folder``; empty for all.
        without: beginnings of the paths left out.
    """

    source: str
    license: str
    folder: Path
    plan: Mapping[str, object] | None = None
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    def files(self) -> list[str]:
        """Paths of the PDF files below the folder, the first of equal ones; sorted."""
        seen: set[str] = set()
        found = []
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if path.suffix.lower() != ".pdf" or not path.is_file():
                continue
            if (self.only and not name.startswith(self.only)) or name.startswith(
                self.without or "\0"
            ):
                continue
            digest = digest_of(path)
            if digest not in seen:
                seen.add(digest)
                found.append(name)
        return found

    def describe(self) -> dict[str, object]:
        """What decides the pages, as plain values."""
        plain: dict[str, object] = {"source": self.source, "license": self.license}
        if self.plan is None:
            plain["files"] = {name: digest_of(self.folder / name) for name in self.files()}
        else:
            plain |= {**self.plan, "only": self.only, "without": self.without}
        return plain


@dataclass(frozen=True)
class Amounts:
    """How many questions of each kind are asked about a page, at most."""

    page: int = 1
    box: int = 3
    word: int = 3
    place: int = 3
    line: int = 3
    layout: int = 1


@dataclass(frozen=True)
class PdfPages:
    """The builder; see the top of this file.

    Attributes:
        collections: where the files are.
        seed: of everything drawn at random.
        sides: pixels of the longer side of a page.
        pages: pages of a file, at most; drawn at random.
        amounts: questions about a page.
        legible: pixels of the size of most print, from which on a page is trained on.
        test_share: of the files, about.
    """

    collections: tuple[Collection, ...]
    seed: int = 0
    sides: tuple[int, ...] = (448, 896, 1344)
    pages: int = 40
    amounts: Amounts = field(default_factory=Amounts)
    legible: float = 9.0
    test_share: float = 0.1
    name: str = "pdf"

    def describe(self) -> Mapping[str, object]:
        """All that decides what is made."""
        plain = vars(self) | {"version": VERSION, "amounts": vars(self.amounts)}
        return plain | {"collections": [one.describe() for one in self.collections]}

    def items(self) -> Sequence[str]:
        """One item for each file: the number of its collection, and its path there."""
        return [
            f"{number}/{name}"
            for number, one in enumerate(self.collections)
            for name in one.files()
        ]

    def make(self, item: str, album: Album, rng: random.Random) -> Iterator[Sample]:
        """Ask about some pages of a file."""
        number, _, name = item.partition("/")
        collection = self.collections[int(number)]
        split = "test" if held_out(f"{collection.source} {name}", self.test_share) else "train"
        with open_pdf(collection.folder / name) as pdf:
            chosen = sorted(rng.sample(range(1, len(pdf) + 1), min(self.pages, len(pdf))))
            for page in chosen:
                where = f"{name}: page {page}"
                try:
                    read = read_page(pdf, page)
                except DataError as error:
                    album.reject(where, str(error))
                    continue
                about = {"file": name, "page": page}
                record = Record((), source=collection.source, license=collection.license)
                for file, made in self._ask(pdf, read, split, album, rng):
                    kept = replace(record, messages=made.messages, metadata=about)
                    yield Sample(f"{split}-{file}.jsonl", kept)

    def _ask(
        self, pdf: PdfFile, page: Page, split: str, album: Album, rng: random.Random
    ) -> Iterator[tuple[str, Record]]:
        """Records of one page with the last part of the names of their files."""
        print_size = median(word.size for word in page.words)
        scale = print_size / max(page.size)
        readable = [side for side in self.sides if side * scale >= self.legible]
        side = rng.choice(readable or self.sides[-1:])
        picture = grey_if_grey(pdf.render(page.number, side))
        tasks = PageTasks(page, picture.size, rng)
        amounts = self.amounts
        for asked, box in tasks.crops(amounts.line):
            yield "line", _record([asked], album.add(picture.crop(box)))
        whole = album.add(picture)
        if amounts.page:
            yield "page", _record(tasks.whole(), whole)
        for kind, rounds in (
            ("box", tasks.boxes(amounts.box)),
            ("place", tasks.places(amounts.place)),
            ("layout", tasks.layout() if amounts.layout else []),
        ):
            if rounds:
                yield kind, _record(rounds, whole)
        words = tasks.words(amounts.word)
        if split == "train" and words:
            yield "word", _record([_sized(one, side) for one in words], whole)
        elif words:
            # The box as text is a fraction of the page: it is the same at every size.
            for each in self.sides:
                shown = album.add(grey_if_grey(pdf.render(page.number, each)))
                yield "word", _record([_sized(one, each) for one in words], shown)


def read_page(pdf: PdfFile, number: int) -> Page:
    """A page that is worth reading, with its upright lines.

    Raises:
        DataError: why it is not.
    """
    page = pdf.read(number)
    page = replace(page, lines=tuple(line for line in page.lines if line.size))
    reason = why_unusable(page.text)
    if reason is None:
        unprinted = share_unprinted(pdf.render(number, CHECKED), page.words)
        if unprinted > MOST_UNPRINTED:
            reason = f"{unprinted:.0%} of the words in its text layer are not printed there"
    if reason is not None:
        raise DataError(reason)
    return page


def share_unprinted(picture: Image.Image, words: Sequence[Word]) -> float:
    """Share of the words in whose boxes the picture shows nothing."""
    pixels = np.asarray(picture.convert("L")).astype(np.int16)
    height, width = pixels.shape
    empty = 0
    for word in words:
        left, top, right, bottom = word.box
        part = pixels[
            int(max(top, 0) * height) : int(bottom * height) + 1,
            int(max(left, 0) * width) : int(right * width) + 1,
        ]
        empty += part.size == 0 or int(part.max()) - int(part.min()) < CONTRAST
    return empty / max(1, len(words))


def grey_if_grey(picture: Image.Image) -> Image.Image:
    """The picture with one channel, if all three are the same."""
    pixels = np.asarray(picture)
    same = (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all()
    return picture.convert("L") if same else picture


def _record(rounds: Sequence[Asked], picture: ImagePart) -> Record:
    messages: list[Message] = []
    for number, one in enumerate(rounds):
        messages += one.messages(*(() if number else (picture,)))
    return Record(tuple(messages))


def _sized(asked: Asked, side: int) -> Asked:
    return replace(asked, category=f"{side} px")
