"""Readers: storage gives entries, a shape turns them into records; nothing else knows formats."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from triptych.data.readers.base import Convert, Location, Reader, ShapedReader, Table
from triptych.data.readers.documents import convert_document
from triptych.data.readers.llava import convert_entry
from triptych.data.readers.mimicit import MimicitTable, convert_mimicit
from triptych.data.readers.objects import (
    convert_detection,
    convert_grounding,
    convert_language,
    convert_layout,
    convert_pose,
    open_objects,
)
from triptych.data.readers.pairs import (
    convert_caption,
    convert_question,
    open_captions,
    open_questions,
)
from triptych.data.readers.preference import convert_preference
from triptych.data.readers.sharegpt import convert_sharegpt
from triptych.data.readers.sparkles import convert_sparkles
from triptych.data.readers.tables import open_table
from triptych.data.readers.vlguard import convert_vlguard, open_vlguard
from triptych.data.readers.words import convert_words
from triptych.data.schema import parse_record
from triptych.errors import DataError


@dataclass(frozen=True)
class Shape:
    """How the entries of a format become records.

    Attributes:
        convert: one entry to one record.
        open: the entries of a file, and of the second file that some formats have; None for
            storage chosen by the name of the file.
    """

    convert: Convert
    open: Callable[[Location, Location | None], Table] | None = None


READERS: Mapping[str, Shape] = {
    "jsonl": Shape(parse_record),
    "llava": Shape(convert_entry),
    "sharegpt": Shape(convert_sharegpt),
    "documents": Shape(convert_document),
    "captions": Shape(convert_caption, open_captions),
    "vqa": Shape(convert_question, open_questions),
    "mimicit": Shape(convert_mimicit),
    "sparkles": Shape(convert_sparkles),
    "preference": Shape(convert_preference),
    "detection": Shape(convert_detection, open_objects),
    "grounding": Shape(convert_grounding, open_objects),
    "pose": Shape(convert_pose, open_objects),
    "layout": Shape(convert_layout, open_objects),
    "language": Shape(convert_language),
    "words": Shape(convert_words),
    "vlguard": Shape(convert_vlguard, open_vlguard),
}


def open_reader(
    path: Location,
    reader: str = "jsonl",
    images: Path | None = None,
    answers: Location | None = None,
) -> Reader:
    """Open a file of records.

    Args:
        path: a file, a folder, a name with ``*`` or ``{000..012}``, or a remote address.
        reader: the shape of its entries.
        images: the folder that relative image paths start from; the file's own when None.
        answers: the second file of formats that have two.

    Raises:
        DataError: when the reader is not known or the file cannot be indexed.
    """
    if reader not in READERS:
        close = difflib.get_close_matches(reader, READERS, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known readers: {', '.join(READERS)}"
        raise DataError(f"{path}: unknown reader '{reader}' ({hint})")
    shape = READERS[reader]
    root = images
    if root is None and isinstance(path, Path):
        root = path if path.is_dir() else path.parent
    if reader == "mimicit":
        return ShapedReader(MimicitTable(path, images), shape.convert, root)
    table = open_table(path) if shape.open is None else shape.open(path, answers)
    return ShapedReader(table, shape.convert, root)
