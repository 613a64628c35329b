"""Pages of PDF files: pictures, and words with their boxes, read with pypdfium2.

Boxes are fractions of the page from its top left corner, whatever its crop box and rotation; PDF
itself counts from below.
"""

import ctypes
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import TYPE_CHECKING

from PIL import Image

from triptych.data.boxes import Box
from triptych.errors import DataError
from triptych.synth.ocr.text import BREAKS, clean

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument, PdfPage, PdfTextPage

FINE = 1_000_000
"""Steps across a page in which places are asked for."""
UNIT = 1000
LARGEST_POINTS = 15_000
WIDE = 3.0
"""Heights of a word between two words of one line, at most."""


@dataclass(frozen=True)
class Word:
    """A word.

    Attributes:
        box: of its ink, as fractions of the page.
        size: of its first letter in points; 0 where it does not stand upright.
    """

    text: str
    box: Box
    size: float = 10.0


@dataclass(frozen=True)
class Line:
    """Words that stand on a line, in reading order."""

    words: tuple[Word, ...]

    @property
    def text(self) -> str:
        """The words with one space between them."""
        return " ".join(word.text for word in self.words)

    @property
    def box(self) -> Box:
        """What all words together take up."""
        return around([word.box for word in self.words])

    @property
    def size(self) -> float:
        """Size of most of its print in points; 0 where it does not stand upright."""
        return median(word.size for word in self.words)


@dataclass(frozen=True)
class Page:
    """What stands on a page.

    Attributes:
        number: from 1.
        size: width and height in points, as the page is shown.
        lines: in the order of the file, which is the reading order of most.
        figures: boxes of images, as fractions of the page.
    """

    number: int
    size: tuple[float, float]
    lines: tuple[Line, ...]
    figures: tuple[Box, ...]

    @property
    def words(self) -> list[Word]:
        """All words in order."""
        return [word for line in self.lines for word in line.words]

    @property
    def text(self) -> str:
        """All lines in order."""
        return "\n".join(line.text for line in self.lines)


def around(boxes: Sequence[Box]) -> Box:
    """The smallest box that holds all of them."""
    left, top, right, bottom = zip(*boxes, strict=True)
    return min(left), min(top), max(right), max(bottom)


class PdfFile:
    """An open file; ``open_pdf`` makes one."""

    def __init__(self, pdfium: ModuleType, document: "PdfDocument", name: str) -> None:
        self._pdfium, self._document, self._name = pdfium, document, name

    def __len__(self) -> int:
        return len(self._document)

    def read(self, number: int) -> Page:
        """What stands on page ``number`` (from 1).

        Raises:
            DataError: the page cannot be read.
        """
        with self._page(number) as page:
            size = page.get_size()
            if not all(1 <= side <= LARGEST_POINTS for side in size):
                raise DataError(f"is {size[0]:.0f} x {size[1]:.0f} points, which is no page")
            text = page.get_textpage()
            try:
                place = Place(self._pdfium.raw, page)
                lines = tuple(make_lines(list(self._words(place, text))))
            finally:
                text.close()
            return Page(number, size, lines, tuple(self._figures(page, place)))

    def render(self, number: int, side: int) -> Image.Image:
        """Page ``number`` (from 1) on white, its longer side ``side`` pixels.

        Raises:
            DataError: the page cannot be rendered.
        """
        with self._page(number) as page:
            shown = page.render(scale=side / max(page.get_size())).to_pil()
            picture: Image.Image = shown.convert("RGB")
            return picture

    @contextmanager
    def _page(self, number: int) -> Iterator["PdfPage"]:
        try:
            page = self._document[number - 1]
            try:
                yield page
            finally:
                page.close()
        except (self._pdfium.PdfiumError, OSError, ValueError, MemoryError) as error:
            raise DataError(f"cannot be read ({error})") from None

    def _words(self, place: "Place", text: "PdfTextPage") -> Iterator[Word]:
        """Words between spaces, of which many are pdfium's own insertions.

        A break at the end of a line has no space behind it, but a sign of its own.
        """
        raw = self._pdfium.raw
        letters: list[str] = []
        boxes: list[Box] = []
        first = 0
        for index in range(text.count_chars() + 1):
            last = index == text.count_chars()
            code = 32 if last else raw.FPDFText_GetUnicode(text, index)
            letter = chr(min(code, sys.maxunicode))
            if not letter.isspace():
                first = first if letters else index
                letters.append(letter)
                box = place.box(text.get_charbox(index))
                if box[0] < box[2] and box[1] < box[3]:
                    boxes.append(box)
            if letters and (letter.isspace() or code in BREAKS):
                cleaned = clean("".join(letters))
                if cleaned and boxes:
                    yield Word(cleaned, around(boxes), self._size(text, first))
                letters.clear()
                boxes.clear()

    def _size(self, text: "PdfTextPage", index: int) -> float:
        """Size of a letter in points; 0 where it does not stand upright."""
        raw, matrix = self._pdfium.raw, self._pdfium.raw.FS_MATRIX()
        size = float(raw.FPDFText_GetFontSize(text, index))
        if not raw.FPDFText_GetMatrix(text, index, matrix):
            return 0.0
        return 0.0 if abs(matrix.b) > abs(matrix.d) / 10 else size * abs(matrix.d)

    def _figures(self, page: "PdfPage", place: "Place") -> Iterator[Box]:
        for found in page.get_objects([self._pdfium.raw.FPDF_PAGEOBJ_IMAGE], max_depth=2):
            yield place.box(found.get_bounds())


class Place:
    """From points of a PDF page, counted from below, to fractions of the page as it is shown."""

    def __init__(self, raw: ModuleType, page: "PdfPage") -> None:
        across, down = ctypes.c_int(), ctypes.c_int()

        def corner(x: float, y: float) -> tuple[float, float]:
            raw.FPDF_PageToDevice(page, 0, 0, FINE, FINE, 0, x, y, across, down)
            return across.value / FINE, down.value / FINE

        self.origin = corner(0, 0)
        right, up = corner(UNIT, 0), corner(0, UNIT)
        self.right = tuple(
            (there - here) / UNIT for there, here in zip(right, self.origin, strict=True)
        )
        self.up = tuple((there - here) / UNIT for there, here in zip(up, self.origin, strict=True))

    def box(self, bounds: tuple[float, float, float, float]) -> Box:
        """A box of left, bottom, right and top in points."""
        left, bottom, right, top = bounds
        (x1, y1), (x2, y2) = self._point(left, bottom), self._point(right, top)
        return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)

    def _point(self, x: float, y: float) -> tuple[float, float]:
        return (
            self.origin[0] + x * self.right[0] + y * self.up[0],
            self.origin[1] + x * self.right[1] + y * self.up[1],
        )


def make_lines(words: Sequence[Word]) -> Iterator[Line]:
    """Words that follow each other at one height, without a gap as between columns."""
    line: list[Word] = []
    for word in words:
        if line and not _follows(line[-1], word):
            yield Line(tuple(line))
            line = []
        line.append(word)
    if line:
        yield Line(tuple(line))


def _follows(word: Word, following: Word) -> bool:
    (_, top, right, bottom), (left, next_top, _, next_bottom) = word.box, following.box
    shared = min(bottom, next_bottom) - max(top, next_top)
    low = min(bottom - top, next_bottom - next_top)
    # A box of a comma or a dash is flat; letters of one line overlap or nearly touch.
    tall = max(bottom - top, next_bottom - next_top)
    return shared > -0.5 * (tall - low) - 0.1 * tall and -0.5 * tall < left - right < WIDE * tall


@contextmanager
def open_pdf(path: Path) -> Iterator[PdfFile]:
    """Open a PDF file.

    Raises:
        DataError: pypdfium2 is not installed, or the file is no PDF that can be opened.
    """
    try:
        pdfium = import_module("pypdfium2")
    except ImportError:
        raise DataError(
            "pypdfium2 is needed to read PDF files: pip install 'triptych[synth]'"
        ) from None
    try:
        document = pdfium.PdfDocument(path)
    except (pdfium.PdfiumError, OSError) as error:
        raise DataError(f"{path.name}: is not a PDF file that can be opened ({error})") from None
    try:
        yield PdfFile(pdfium, document, path.name)
    finally:
        document.close()
