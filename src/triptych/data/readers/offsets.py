"""Random access to the JSON objects of a file by byte offset, without holding the file.

Both layouts in use are read: one object a line (JSON lines), and one list of objects.
"""

import json
import mmap
import re
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from triptych.data.readers.base import Location
from triptych.data.readers.files import ReadAt, open_binary
from triptych.errors import DataError

BOM = b"\xef\xbb\xbf"
STRUCTURE = re.compile(rb'"(?:[^"\\]++|\\.)*+"|["\[\]{}]', re.DOTALL)


class ObjectIndex:
    """Where each object of a file begins and ends; a ``Table``.

    Args:
        path: the file.
        spans: (n, 2) first and last byte + 1 of each object.
        lines: (n,) the line of the file that each object begins on, from 1.
    """

    def __init__(self, path: Location, spans: np.ndarray, lines: np.ndarray) -> None:
        self.path, self.spans, self.lines = path, spans, lines
        self._read = ReadAt(path)

    def __len__(self) -> int:
        return len(self.lines)

    def where(self, index: int) -> str:
        """Name of an object for messages: "file:line"."""
        return f"{self.path}:{self.lines[index]}"

    def read(self, index: int) -> object:
        """Parse one object.

        Raises:
            DataError: when the bytes are not UTF-8 or not JSON, with the column.
        """
        start, stop = self.spans[index].tolist()
        return decode_json(self._read(start, stop), self.where(index))


def decode_json(raw: bytes, where: str) -> object:
    """Parse one JSON value, naming ``where`` in every error."""
    try:
        return DECODER.decode(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: byte {error.start} of the record is not UTF-8; write the file again as UTF-8"
        ) from None
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where}: not JSON at character {error.pos + 1}: {error.msg}; "
            "one whole JSON object is expected"
        ) from None
    except RecursionError:
        raise DataError(f"{where}: the JSON is nested too deeply to be a record") from None
    except ValueError as error:
        raise DataError(f"{where}: not JSON: {error}") from None


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON value; use null or a number")


DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def index_objects(path: Location) -> ObjectIndex:
    """Find every object of a JSON lines file, or of a file that holds one list, in one pass.

    Raises:
        DataError: when the file is missing, empty, or its list is never closed.
    """
    if first_byte(path) != b"[":
        found = _lines(path)
    elif isinstance(path, Path):
        found = _list_objects(path)
    else:
        raise DataError(f"{path}: a remote file must hold one object a line, not one list")
    edges, lines = array("q"), array("q")
    for start, stop, line in found:
        edges.extend((start, stop))
        lines.append(line)
    if not lines:
        raise DataError(f"{path}: holds no record; one JSON object a line is expected")
    spans = np.array(edges, dtype=np.int64).reshape(-1, 2)
    return ObjectIndex(path, spans, np.array(lines, dtype=np.int64))


def first_byte(path: Location) -> bytes:
    """The first byte of a text file that is no white space."""
    with open_binary(path) as file:
        try:
            return file.read(4096).removeprefix(BOM).lstrip()[:1]
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def _lines(path: Location) -> Iterator[tuple[int, int, int]]:
    position = 0
    with open_binary(path) as file:
        for number, line in enumerate(file, start=1):
            skip = len(BOM) if number == 1 and line.startswith(BOM) else 0
            if line[skip:].strip():
                yield position + skip, position + len(line), number
            position += len(line)


def _list_objects(path: Path) -> Iterator[tuple[int, int, int]]:
    """Spans of the items of a list: strings are skipped whole, brackets are counted."""
    depth, start, stop, line = 0, 0, 0, 1
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for match in STRUCTURE.finditer(data):
            token = data[match.start()]
            if token == ord('"'):
                if match.end() == match.start() + 1:
                    raise DataError(
                        f"{path}: a text that begins at byte {match.start()} never ends"
                    )
                continue
            depth += 1 if token in b"[{" else -1
            if token in b"[{" and depth == 2:
                expected = b"," if stop else b"["
                line += data[start : match.start()].count(b"\n")
                start = match.start()
                _check_gap(data[stop:start], expected, f"{path}:{line}")
            elif depth == 1 and token in b"]}":
                stop = match.end()
                yield start, stop, line
            elif depth == 0:
                _check_gap(data[stop:], b"]" if stop else b"[]", f"{path}:{line}")
                return
    raise DataError(f"{path}: the list is never closed; the file seems to be cut off")


def _check_gap(gap: bytes, expected: bytes, where: str) -> None:
    if b"".join(gap.removeprefix(BOM).split()) != expected:
        raise DataError(
            f"{where}: {gap.strip()[:40]!a} stands before or between the records; "
            "a list of JSON objects separated by commas is expected"
        )
