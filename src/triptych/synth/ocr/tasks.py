"""Questions about a page whose words and boxes are known: reading it, and finding things on it.

Boxes are written as in ``triptych.data.boxes``. A word is asked about by its box, or for its box,
only where that box as it is written (with two decimals) can mean no other word.
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TypeVar

from triptych.data.boxes import Box, Frame, read_boxes, write_boxes
from triptych.synth.ocr.layout import Region, regions
from triptych.synth.ocr.pdf import Line, Page, Word
from triptych.synth.question import Asked

T = TypeVar("T")
Placed = TypeVar("Placed", Word, Line)

READ_PAGE = ("Read the page.", "What is written on this page?", "Write down the text of the page.")
READ_LINE = ("Read the line.", "What does this line say?", "Write down what stands here.")
READ_BOX = ("Read the text in the box {box}.", "What is written in {box}?")
READ_WORD = ("Which word is in the box {box}?", "Read the word at {box}.")
FIND_WORD = ('Where is the word "{word}"? Give the box.', 'Give the box of "{word}".')
LAYOUT = ("How many regions of each kind has the page, and where?", "Describe the page layout.")
KINDS = ("title", "text", "list", "figure")
SHORTEST_WORD = 4
LONGEST_REGION = 80
"""Words of a region that is read whole, at most."""
MOST_REGIONS = 20
"""Of a page whose layout is asked for: listings with numbered lines have one for every number."""
FITTING = 0.3
"""Intersection over union of a box as it is written with the box itself, at least."""
CLEAR = 1.5
"""How much better a written box must fit its own word than any other."""


class PageTasks:
    """Questions about one page, with boxes in the frame of its picture.

    Args:
        page: what stands on it.
        size: of its picture in pixels.
        rng: what is drawn from.
    """

    def __init__(self, page: Page, size: tuple[int, int], rng: random.Random) -> None:
        self.page, self.size, self.rng = page, size, rng
        self.frame = Frame(*size)
        self.regions = regions(page)

    def whole(self) -> list[Asked]:
        """The text of the page, line by line."""
        return [Asked(self.rng.choice(READ_PAGE), self.page.text, "page")]

    def boxes(self, count: int) -> list[Asked]:
        """Lines and regions that are to be read, told by their boxes."""
        lines = [line for line in self.page.lines if len(line.words) > 1 and self._alone(line)]
        found: list[Region | Line] = list(self._clear(lines))
        found += [
            one for one in self.regions if len(one.lines) > 1 and _words(one) <= LONGEST_REGION
        ]
        asked = []
        for one in self._sample(found, count):
            text = one.text if isinstance(one, Line) else "\n".join(line.text for line in one.lines)
            question = self.rng.choice(READ_BOX).format(box=self.write(one.box))
            asked.append(Asked(question, text, "box"))
        return asked

    def words(self, count: int) -> list[Asked]:
        """Words that are to be read, told by their boxes."""
        return [
            Asked(self.rng.choice(READ_WORD).format(box=self.write(word.box)), word.text, "word")
            for word in self._sample(self._clear_words(), count)
        ]

    def places(self, count: int) -> list[Asked]:
        """Words that are on the page once, and are to be found."""
        often = Counter(word.text.lower() for word in self.page.words)
        once = [word for word in self._clear_words() if often[word.text.lower()] == 1]
        return [
            Asked(self.rng.choice(FIND_WORD).format(word=word.text), self.write(word.box), "place")
            for word in self._sample(once, count)
        ]

    def layout(self) -> list[Asked]:
        """How many regions of each kind there are, and where."""
        lines = []
        if len(self.regions) > MOST_REGIONS:
            return []
        for kind in KINDS:
            found = [self._pixels(one.box) for one in self.regions if one.kind == kind]
            if found:
                lines.append(f"{len(found)} {kind}: {write_boxes(found, self.frame)}")
        return [Asked(self.rng.choice(LAYOUT), "\n".join(lines), "layout")] if lines else []

    def crops(self, count: int) -> list[tuple[Asked, tuple[int, int, int, int]]]:
        """Lines that are to be read from a picture of their own, and where they stand."""
        found = [line for line in self.page.lines if len(line.words) > 1 and self._alone(line)]
        return [
            (Asked(self.rng.choice(READ_LINE), line.text, "line"), self._margin(line.box))
            for line in self._sample(found, count)
        ]

    def write(self, box: Box) -> str:
        """A box as text."""
        return write_boxes([self._pixels(box)], self.frame)

    def _pixels(self, box: Box) -> Box:
        width, height = self.size
        left, top, right, bottom = (min(max(side, 0.0), 1.0) for side in box)
        return left * width, top * height, right * width, bottom * height

    def _margin(self, box: Box) -> tuple[int, int, int, int]:
        """A box in whole pixels with a little paper around it."""
        left, top, right, bottom = self._pixels(box)
        edge = 0.25 * (bottom - top) + 1
        return (
            max(0, int(left - edge)),
            max(0, int(top - edge)),
            min(self.size[0], int(right + edge) + 1),
            min(self.size[1], int(bottom + edge) + 1),
        )

    def _alone(self, line: Line) -> bool:
        """Whether no word of another line stands in the box of this one."""
        box = line.box
        own = set(map(id, line.words))
        return not any(_centre_in(word.box, box) for word in self.page.words if id(word) not in own)

    def _clear_words(self) -> list[Word]:
        """Words worth asking for that their written boxes tell from all others."""
        return [
            word
            for word in self._clear(self.page.words)
            if len(word.text) >= SHORTEST_WORD and word.text.isascii()
        ]

    def _clear(self, things: Sequence[Placed]) -> Iterator[Placed]:
        """Those whose box, as it is written, fits them and no other one."""
        width, height = self.size
        for one in things:
            left, top, right, bottom = read_boxes(self.write(one.box), self.frame)[0]
            written = left / width, top / height, right / width, bottom / height
            fits = share(written, one.box)
            others = (share(written, other.box) for other in things if other is not one)
            if fits >= FITTING and fits >= CLEAR * max(others, default=0):
                yield one

    def _sample(self, found: Sequence[T], count: int) -> list[T]:
        return self.rng.sample(found, min(count, len(found)))


def share(box: Box, other: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (_area(box) + _area(other) - width * height)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _centre_in(box: Box, other: Box) -> bool:
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return other[0] <= x <= other[2] and other[1] <= y <= other[3]


def _words(region: Region) -> int:
    return sum(len(line.words) for line in region.lines)
