"""Readers: each turns one file format into records, and nothing else knows that format."""

import difflib
from pathlib import Path

from triptych.data.readers.base import Reader
from triptych.data.readers.jsonl import JsonlReader
from triptych.data.readers.llava import LlavaReader
from triptych.errors import DataError

READERS: dict[str, type[JsonlReader] | type[LlavaReader]] = {
    "jsonl": JsonlReader,
    "llava": LlavaReader,
}


def open_reader(path: Path, reader: str = "jsonl", images: Path | None = None) -> Reader:
    """Open a file of records.

    Raises:
        DataError: when the reader is not known or the file cannot be indexed.
    """
    if reader not in READERS:
        close = difflib.get_close_matches(reader, READERS, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known readers: {', '.join(READERS)}"
        raise DataError(f"{path}: unknown reader '{reader}' ({hint})")
    return READERS[reader](path, images)
