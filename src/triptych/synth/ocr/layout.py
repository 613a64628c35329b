"""Regions of a page, found from its lines: text, titles, lists and figures.

PDF files do not say what is a title. These rules are ours: lines close below each other make a
region; a short region in larger print is a title; a region that begins with a bullet or a number
is a list.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from triptych.data.boxes import Box
from triptych.synth.ocr.pdf import Line, Page, around

BULLET = re.compile(r"^(?:[\u2022\u25e6\u25aa\u2217\u2013*-]|\(?\d{1,2}[.)]|\(?[a-z]\))$")
LARGER = 1.15
SAME = 1.12
"""Sizes of print whose ratio is below it are the same."""
TITLE_LINES = 3
PITCH = 1.75
"""Heights of a line from one line of a region to the next, at most."""
SMALLEST_FIGURE = 0.01
"""Share of the page."""


@dataclass(frozen=True)
class Region:
    """A part of a page.

    Attributes:
        kind: ``title``, ``text``, ``list`` or ``figure``.
        lines: none in a figure.
    """

    kind: str
    box: Box
    lines: tuple[Line, ...] = ()


def regions(page: Page) -> list[Region]:
    """The regions of a page in the order of its lines, figures last."""
    usual = median([word.size for word in page.words] or [0])
    upright = [line for line in page.lines if line.size]
    found = [_region(lines, usual) for lines in _together(upright)]
    for box in page.figures:
        left, top, right, bottom = (min(max(side, 0.0), 1.0) for side in box)
        if (right - left) * (bottom - top) >= SMALLEST_FIGURE:
            found.append(Region("figure", (left, top, right, bottom)))
    return found


def _together(lines: Sequence[Line]) -> list[list[Line]]:
    groups: list[list[Line]] = []
    for line in lines:
        if groups and _continues(groups[-1][-1], line):
            groups[-1].append(line)
        else:
            groups.append([line])
    return groups


def _continues(above: Line, below: Line) -> bool:
    """Whether two lines that follow each other belong to one region."""
    if not 1 / SAME <= above.size / below.size <= SAME or BULLET.match(below.words[0].text):
        return False
    (left, top, right, bottom), (next_left, next_top, next_right, next_bottom) = (
        above.box,
        below.box,
    )
    overlap = min(right, next_right) - max(left, next_left)
    pitch = (next_top + next_bottom - top - bottom) / 2
    return 0 < pitch <= PITCH * max(bottom - top, next_bottom - next_top) and overlap > 0


def _region(lines: Sequence[Line], usual: float) -> Region:
    size = median(word.size for line in lines for word in line.words)
    words = sum(len(line.words) for line in lines)
    if BULLET.match(lines[0].words[0].text) and words > 1:
        kind = "list"
    elif size >= LARGER * usual and len(lines) <= TITLE_LINES and words <= 20:
        kind = "title"
    else:
        kind = "text"
    return Region(kind, around([line.box for line in lines]), tuple(lines))
