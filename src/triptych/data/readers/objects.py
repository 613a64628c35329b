"""Annotated images as dialogue: detection, grounding, pose, layout; and language alone.

SPHINX-X (arXiv 2402.05935) turns every set into conversations, with places as text. The entries
are ours: ``image``, ``width``, ``height`` and ``objects``, each with ``label`` and ``box`` (left,
top, right, bottom in pixels), ``points`` or ``text``. COCO instance files are read as they are.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from triptych.data.boxes import Box, Frame, Point, write_boxes, write_points
from triptych.data.readers.annotated import CocoImages, image_record
from triptych.data.readers.base import Location, Table, fields_of
from triptych.data.readers.members import Members
from triptych.data.readers.pairs import holds_section
from triptych.data.readers.tables import open_table
from triptych.data.schema import Record, parse_record
from triptych.errors import DataError

DETECT = "Detect all objects in the image and give their boxes."
POSE = "Detect the keypoints of every object in the image."
LAYOUT = "Describe the layout of this page: how many regions of each kind, and where."
WHERE = "Where is {phrase}? Give the box."
WHAT = "What is in the region {box}?"
READ = "Read all words in the image and give the box of each."


def convert_detection(entry: object, where: str, root: Path | None = None) -> Record:
    """All objects of an image: ``label [box];[box]``, a line for each label."""
    fields, frame = _image(entry, where)
    lines = [
        f"{label} {write_boxes(boxes, frame)}" for label, boxes in _boxes(fields, where).items()
    ]
    return image_record(fields, [(DETECT, "\n".join(lines))], where, root)


def convert_grounding(entry: object, where: str, root: Path | None = None) -> Record:
    """Rounds in turn: where is this phrase, what is in that box."""
    fields, frame = _image(entry, where)
    rounds = []
    for number, (phrase, boxes) in enumerate(_boxes(fields, where).items()):
        text = write_boxes(boxes, frame)
        if number % 2 and len(boxes) == 1:
            rounds.append((WHAT.format(box=text), phrase))
        else:
            rounds.append((WHERE.format(phrase=phrase), text))
    return image_record(fields, rounds, where, root)


def convert_pose(entry: object, where: str, root: Path | None = None) -> Record:
    """Keypoints of every object: its label, and a list of points."""
    fields, frame = _image(entry, where)
    lines = []
    for number, item in enumerate(_objects(fields, where)):
        place = f"{where}: objects[{number}]"
        lines.append(f"{_label(item, place)} {write_points(_points(item, place), frame)}")
    return image_record(fields, [(POSE, "\n".join(lines))], where, root)


def convert_layout(entry: object, where: str, root: Path | None = None) -> Record:
    """Regions of a page, counted by kind; and its words with their boxes, where they have text."""
    fields, frame = _image(entry, where)
    lines = [
        f"{len(boxes)} {label}: {write_boxes(boxes, frame)}"
        for label, boxes in _boxes(fields, where).items()
    ]
    rounds = [(LAYOUT, "\n".join(lines))]
    words = [
        f"{item['text']} {write_boxes([_box(item, where)], frame)}"
        for item in _objects(fields, where)
        if isinstance(item.get("text"), str) and item["text"]
    ]
    if words:
        rounds.append((READ, "\n".join(words)))
    return image_record(fields, rounds, where, root)


def convert_language(entry: object, where: str, root: Path | None = None) -> Record:
    """Text alone: ``instruction``, ``input`` and ``output``, or ``question`` and ``answer``.

    Raises:
        DataError: a text is missing.
    """
    fields = fields_of(entry, where)
    asked = (fields.get(key) for key in ("instruction", "question", "prompt"))
    said = (fields.get(key) for key in ("output", "answer", "response"))
    question, answer = next(filter(None, asked), None), next(filter(None, said), None)
    if not isinstance(question, str) or not isinstance(answer, str):
        raise DataError(f"{where}: 'instruction' and 'output' must be texts")
    extra = fields.get("input")
    text = f"{question}\n\n{extra}" if isinstance(extra, str) and extra else question
    messages: list[dict[str, object]] = []
    if isinstance(fields.get("system_prompt"), str) and fields["system_prompt"]:
        messages.append({"role": "system", "content": fields["system_prompt"]})
    messages.append({"role": "user", "content": text})
    messages.append({"role": "assistant", "content": answer})
    return parse_record({"messages": messages, "id": fields.get("id")}, where, root)


class CocoObjects(CocoImages):
    """Images with their objects, from a COCO file that also has ``categories``.

    Args:
        path: the file.

    Raises:
        DataError: it has no such sections.
    """

    def __init__(self, path: Location) -> None:
        super().__init__(path)
        categories = Members(path, "categories")
        items = [categories.fields(k) for k in range(len(categories))]
        self.labels = {item.get("id"): item.get("name") for item in items}

    def read(self, index: int) -> object:
        """An entry with ``image``, ``width``, ``height`` and ``objects``."""
        image, found = self.look(index)
        plain = {key: image.get(key) for key in ("id", "width", "height")}
        objects = [self._object(item, where) for item, where in found]
        return {"image": image.get("file_name"), **plain, "objects": objects}

    def _object(self, item: Mapping[str, Any], where: str) -> dict[str, object]:
        plain: dict[str, object] = {"label": self.labels.get(item.get("category_id"))}
        box, points, parts = item.get("bbox"), item.get("keypoints"), item.get("segmentation")
        if isinstance(box, list):
            x, y, width, height = _numbers(box, 4, where)
            plain["box"] = [x, y, x + width, y + height]
        if isinstance(points, list):
            flat = _numbers(points, len(points) // 3 * 3, where)
            triples = zip(flat[::3], flat[1::3], flat[2::3], strict=True)
            plain["points"] = [[x, y] for x, y, visible in triples if visible]
        # A thing in several parts is known by its box alone.
        if isinstance(parts, list) and len(parts) == 1 and isinstance(parts[0], list):
            flat = _numbers(parts[0], len(parts[0]) // 2 * 2, where)
            plain["polygon"] = [list(pair) for pair in zip(flat[::2], flat[1::2], strict=True)]
        return plain


def open_objects(path: Location, answers: Location | None = None) -> Table:
    """A COCO instance or keypoint file, or our entries."""
    return CocoObjects(path) if holds_section(path, "annotations") else open_table(path)


def _image(entry: object, where: str) -> tuple[Mapping[str, Any], Frame]:
    fields = fields_of(entry, where)
    width, height = fields.get("width"), fields.get("height")
    if not isinstance(width, int | float) or not isinstance(height, int | float):
        raise DataError(f"{where}: 'width' and 'height' must be numbers")
    try:
        return fields, Frame(width, height)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def _objects(fields: Mapping[str, Any], where: str) -> list[Mapping[str, Any]]:
    objects = fields.get("objects")
    if not isinstance(objects, list) or not objects:
        raise DataError(f"{where}: 'objects' must be a list with at least one object")
    return [fields_of(item, f"{where}: objects[{k}]") for k, item in enumerate(objects)]


def _boxes(fields: Mapping[str, Any], where: str) -> dict[str, list[Box]]:
    """Boxes by label, in the order in which the labels come."""
    boxes: dict[str, list[Box]] = {}
    for number, item in enumerate(_objects(fields, where)):
        place = f"{where}: objects[{number}]"
        boxes.setdefault(_label(item, place), []).append(_box(item, place))
    return boxes


def _label(item: Mapping[str, Any], where: str) -> str:
    label = item.get("label")
    if not isinstance(label, str) or not label.strip():
        raise DataError(f"{where}: 'label' must be a text")
    return label.strip()


def _box(item: Mapping[str, Any], where: str) -> Box:
    left, top, right, bottom = _numbers(item.get("box"), 4, where)
    if right < left or bottom < top:
        raise DataError(f"{where}: the box ends before it begins")
    return left, top, right, bottom


def _points(item: Mapping[str, Any], where: str) -> list[Point]:
    points = item.get("points")
    if not isinstance(points, list) or not points:
        raise DataError(f"{where}: 'points' must be a list with at least one point")
    pairs = [_numbers(point, 2, where) for point in points]
    return [(x, y) for x, y in pairs]


def _numbers(values: object, count: int, where: str) -> list[float]:
    if (
        not isinstance(values, list)
        or len(values) != count
        or not all(isinstance(v, int | float) and abs(v) < 1e9 for v in values)
    ):
        raise DataError(f"{where}: {count} numbers are expected")
    return [float(value) for value in values]
