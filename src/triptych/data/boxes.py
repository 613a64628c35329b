"""Boxes and points as text, and back: the codec of SPHINX-X (arXiv 2402.05935).

Coordinates are fractions, with two decimals, of the square that the image is padded to with its
picture in the middle, so that a box means the same place whatever the shape of the image. A box is
``[x1,y1,x2,y2]``, a point ``[x,y]``; several are joined by ``;``.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from triptych.errors import DataError

Box: TypeAlias = tuple[float, float, float, float]
Point: TypeAlias = tuple[float, float]

BRACKETS = re.compile(r"\[([^\[\]]*)\]")


@dataclass(frozen=True)
class Frame:
    """The padded square of an image.

    Args:
        width: of the image in pixels.
        height: of the image in pixels.

    Raises:
        DataError: a side is not positive.
    """

    width: float
    height: float

    def __post_init__(self) -> None:
        if not (self.width > 0 and self.height > 0):
            raise DataError(f"an image of {self.width} x {self.height} pixels has no boxes")

    @property
    def side(self) -> float:
        """Side of the square in pixels."""
        return max(self.width, self.height)

    def to_square(self, x: float, y: float) -> Point:
        """Pixels of the image to fractions of the square, cut off at the edges of the image."""
        left, top = (self.side - self.width) / 2, (self.side - self.height) / 2
        inside_x, inside_y = min(max(x, 0.0), self.width), min(max(y, 0.0), self.height)
        return (inside_x + left) / self.side, (inside_y + top) / self.side

    def to_pixels(self, x: float, y: float) -> Point:
        """Fractions of the square to pixels of the image, cut off at its edges."""
        left, top = (self.side - self.width) / 2, (self.side - self.height) / 2
        return (
            min(max(x * self.side - left, 0.0), self.width),
            min(max(y * self.side - top, 0.0), self.height),
        )


def write_boxes(boxes: Sequence[Box], frame: Frame) -> str:
    """Boxes (left, top, right, bottom) in pixels as text.

    Raises:
        DataError: a box ends before it begins.
    """
    texts = []
    for left, top, right, bottom in boxes:
        if not (left <= right and top <= bottom):
            raise DataError(f"box {(left, top, right, bottom)} ends before it begins")
        texts.append(_write((*frame.to_square(left, top), *frame.to_square(right, bottom))))
    return ";".join(texts)


def write_points(points: Sequence[Point], frame: Frame) -> str:
    """Points (x, y) in pixels as text."""
    return ";".join(_write(frame.to_square(x, y)) for x, y in points)


def read_boxes(text: str, frame: Frame) -> list[Box]:
    """The boxes in a text, in pixels; whatever stands between them is ignored.

    Raises:
        DataError: brackets do not hold four fractions.
    """
    boxes = []
    for left, top, right, bottom in (_read(part, 4) for part in BRACKETS.findall(text)):
        boxes.append((*frame.to_pixels(left, top), *frame.to_pixels(right, bottom)))
    return boxes


def read_points(text: str, frame: Frame) -> list[Point]:
    """The points in a text, in pixels.

    Raises:
        DataError: brackets do not hold two fractions.
    """
    return [frame.to_pixels(*_read(part, 2)) for part in BRACKETS.findall(text)]


def _write(values: Sequence[float]) -> str:
    return f"[{','.join(f'{value:.2f}' for value in values)}]"


def _read(text: str, count: int) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != count or not all(0 <= value <= 1 for value in values):
        raise DataError(f"[{text[:60]}] does not hold {count} fractions between 0 and 1")
    return values
