"""Captions made of what stands in an image and where, at the six levels of xGen-MM.

xGen-MM (BLIP-3, arXiv 2408.08872) trains on captions that name the words of an image (or its
objects) with more and more exact places. An entry has ``image``, ``width``, ``height``, ``level``
(1 by default) and ``objects``, each with ``text`` (or ``label``) and ``box`` in pixels.

1: the texts. 2: with a coarse place. 3: with the centre as fractions. 4: with start and extent to
one decimal. 5: the same, exact. 6: text and box in tags.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from triptych.data.boxes import Box
from triptych.data.readers.base import fields_of
from triptych.data.schema import Record, parse_record
from triptych.errors import DataError

ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")


def describe(texts: list[tuple[str, Box]], level: int) -> str:
    """A caption of texts with boxes (left, top, right, bottom) as fractions of the image.

    Raises:
        DataError: there is no such level.
    """
    if level not in LEVELS:
        raise DataError(f"level {level} is not one of {min(LEVELS)} to {max(LEVELS)}")
    write, joint = LEVELS[level]
    return joint.join(write(text, box) for text, box in texts)


def convert_words(entry: object, where: str, root: Path | None = None) -> Record:
    """A document of the image and its caption; all of the caption is learned.

    Raises:
        DataError: a field is missing or out of its range.
    """
    fields = fields_of(entry, where)
    width, height = _side(fields, "width", where), _side(fields, "height", where)
    level, objects = fields.get("level", 1), fields.get("objects")
    if not isinstance(objects, list) or not objects:
        raise DataError(f"{where}: 'objects' must be a list with at least one object")
    if not isinstance(level, int) or level not in LEVELS:
        raise DataError(f"{where}: 'level' must be a number from 1 to {max(LEVELS)}")
    texts = [_text(item, f"{where}: objects[{k}]", width, height) for k, item in enumerate(objects)]
    parts = [
        {"type": "image", "image": fields.get("image")},
        {"type": "text", "text": describe(texts, level)},
    ]
    obj = {"messages": [{"role": "document", "content": parts}], "id": fields.get("id")}
    return parse_record(obj, where, root)


def _side(entry: Mapping[str, object], key: str, where: str) -> float:
    value = entry.get(key)
    if not isinstance(value, int | float) or not value > 0:
        raise DataError(f"{where}: '{key}' must be a positive number")
    return float(value)


def _text(item: object, where: str, width: float, height: float) -> tuple[str, Box]:
    fields: Mapping[str, Any] = item if isinstance(item, Mapping) else {}
    text, box = fields.get("text", fields.get("label")), fields.get("box")
    if not isinstance(text, str) or not text:
        raise DataError(f"{where}: 'text' must be a text")
    if not (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(value, int | float) for value in box)
        and 0 <= box[0] <= box[2] <= width
        and 0 <= box[1] <= box[3] <= height
    ):
        raise DataError(f"{where}: 'box' must be four numbers inside the image")
    left, top, right, bottom = box
    return text, (left / width, top / height, right / width, bottom / height)


def _coarse(text: str, box: Box) -> str:
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return f"'{text}' at the {ROWS[min(int(y * 3), 2)]} {COLUMNS[min(int(x * 3), 2)]}"


def _fractions(text: str, box: Box) -> str:
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return f"'{text}' {x:.2f} of the way across and {y:.2f} down"


def _extent(digits: int) -> Callable[[str, Box], str]:
    def write(text: str, box: Box) -> str:
        left, top, right, bottom = box
        start = f"({left:.{digits}f}, {top:.{digits}f})"
        size = f"({right - left:.{digits}f}, {bottom - top:.{digits}f})"
        return f"'{text}' starting at {start} and extending {size}"

    return write


def _tagged(text: str, box: Box) -> str:
    return f"<text>{text}</text><box>{', '.join(f'{value:.3f}' for value in box)}</box>"


LEVELS: Mapping[int, tuple[Callable[[str, Box], str], str]] = {
    1: (lambda text, box: text, " "),
    2: (_coarse, ", "),
    3: (_fractions, ", "),
    4: (_extent(1), ", "),
    5: (_extent(3), ", "),
    6: (_tagged, ""),
}
