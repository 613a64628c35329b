"""Marks: numbers on things in a picture, drawn on it or told as text.

Set-of-Mark prompting (arXiv 2310.11441) draws numbers; SPHINX-X (arXiv 2402.05935) trains on the
picture as it is, with the marks as text. Both are made here from the same things.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, TypeAlias

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from triptych.data.boxes import Box, Frame, Point, write_boxes, write_points

Style: TypeAlias = Literal["box", "point", "outline"]
Told: TypeAlias = Literal["boxes", "points"]

COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#000075")


@dataclass(frozen=True)
class Thing:
    """A thing in a picture.

    Attributes:
        label: what it is.
        box: left, top, right and bottom in pixels.
        mask: of the size of the picture, not 0 where the thing is; None where only its box is
            known.
    """

    label: str
    box: Box
    mask: Image.Image | None = None

    @property
    def centre(self) -> Point:
        """Middle of the box."""
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2

    @property
    def point(self) -> Point:
        """A point that is on the thing: the pixel of its mask that is nearest to their mean."""
        if self.mask is None:
            return self.centre
        rows, columns = np.nonzero(np.asarray(self.mask))
        away = (rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2
        nearest = int(away.argmin())
        return float(columns[nearest]), float(rows[nearest])


def draw_marks(picture: Image.Image, things: Sequence[Thing], style: Style) -> Image.Image:
    """A copy of the picture with the marks 1, 2, ... on its things.

    Args:
        picture: in RGB.
        things: mark 1 is on the first of them.
        style: ``box`` frames them with the number in the corner, ``point`` puts the number on
            them, ``outline`` follows their masks, or their boxes where there is no mask.
    """
    drawn = picture.copy()
    pen = ImageDraw.Draw(drawn)
    size = max(11, round(max(picture.size) / 32))
    width = max(1, size // 6)
    for number, thing in enumerate(things, 1):
        colour = COLOURS[(number - 1) % len(COLOURS)]
        if style == "outline" and thing.mask is not None:
            drawn.paste(colour, mask=_edge(thing.mask, width))
        elif style != "point":
            pen.rectangle(thing.box, outline=colour, width=width)
    # Numbers last, so that no line crosses them.
    for number, thing in enumerate(things, 1):
        place = thing.box[:2] if style == "box" else thing.point
        colour = COLOURS[(number - 1) % len(COLOURS)]
        _chip(pen, str(number), place, size, colour, picture.size, corner=style == "box")
    return drawn


def tell_marks(things: Sequence[Thing], size: tuple[int, int], told: Told) -> str:
    """The marks as text, for a picture that shows none."""
    frame = Frame(*size)
    if told == "points":
        places = [write_points([thing.point], frame) for thing in things]
    else:
        places = [write_boxes([thing.box], frame) for thing in things]
    return "Marks: " + "; ".join(f"{n} {place}" for n, place in enumerate(places, 1)) + "."


def choose_things(things: Sequence[Thing], most: int, rng: random.Random) -> list[Thing]:
    """So many things that hardly overlap, in any order: a number says nothing about the place."""
    kept: list[Thing] = []
    for thing in rng.sample(things, len(things)):
        if len(kept) < most and not any(_covers(thing.box, other.box) for other in kept):
            kept.append(thing)
    return kept


def _covers(box: Box, other: Box) -> bool:
    """Whether one of two boxes lies for more than half in the other."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    least = min((one[2] - one[0]) * (one[3] - one[1]) for one in (box, other))
    return width > 0 and height > 0 and width * height > least / 2


def _edge(mask: Image.Image, width: int) -> Image.Image:
    solid = mask.convert("L").point(lambda value: 255 if value else 0)
    inner = solid.filter(ImageFilter.MinFilter(2 * width + 1))
    return Image.fromarray(np.asarray(solid) - np.asarray(inner))


def _chip(
    pen: ImageDraw.ImageDraw,
    text: str,
    place: Point,
    size: int,
    colour: str,
    picture: tuple[int, int],
    *,
    corner: bool,
) -> None:
    """A number in white on its colour, all of it inside the picture."""
    font = _font(size)
    left, top, right, bottom = font.getbbox(text)
    width, height = right - left + size // 2, bottom - top + size // 2
    x, y = place if corner else (place[0] - width / 2, place[1] - height / 2)
    x = round(min(max(x, 0), picture[0] - width))
    y = round(min(max(y, 0), picture[1] - height))
    pen.rectangle((x, y, x + width - 1, y + height - 1), fill=colour)
    pen.text((x + size // 4 - left, y + size // 4 - top), text, "white", font)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    # Part of matplotlib, so that marks are the same wherever the dependencies are the same.
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"
    return ImageFont.truetype(str(path), size)
