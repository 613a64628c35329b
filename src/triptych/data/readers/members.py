"""Random access to what one JSON object holds: the items of its lists and objects.

COCO, VQA and MIMIC-IT files are one object whose sections hold everything. A section is indexed by
byte offset in one pass; none of it is kept in memory.
"""

import hashlib
import mmap
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from triptych.data.readers.base import Location, fields_of
from triptych.data.readers.files import ReadAt
from triptych.data.readers.offsets import STRUCTURE, decode_json
from triptych.errors import DataError

OPEN, CLOSE, QUOTE = b"[{", b"]}", ord('"')


class Members:
    """The items of one section of a JSON object.

    Args:
        path: the file.
        section: key of the section; None when the whole object is the section.

    Raises:
        DataError: the file has no such section, or is cut off.
    """

    def __init__(self, path: Location, section: str | None = None) -> None:
        self.path, self.section = path, section
        edges, keys = array("q"), array("Q")
        for key, start, stop in _scan(local(path), section):
            edges.extend((start, stop))
            keys.append(hash_key(key))
        self.spans = np.array(edges, dtype=np.int64).reshape(-1, 2)
        names = np.array(keys, dtype=np.uint64)
        self._order = np.argsort(names, kind="stable")
        self._sorted = names[self._order]
        self._read = ReadAt(path)

    def __len__(self) -> int:
        return len(self.spans)

    def where(self, index: int) -> str:
        """Name of an item for messages."""
        return f"{self.path}: {self.section or 'item'}[{index}]"

    def read(self, index: int) -> object:
        """Parse one item."""
        start, stop = self.spans[index].tolist()
        return decode_json(self._read(start, stop), self.where(index))

    def fields(self, index: int) -> Mapping[str, Any]:
        """Parse one item that must be an object."""
        return fields_of(self.read(index), self.where(index))

    def find(self, key: str) -> int | None:
        """Number of the item with this key, or None."""
        wanted = np.uint64(hash_key(key.encode()))
        place = int(np.searchsorted(self._sorted, wanted))
        found = place < len(self._sorted) and self._sorted[place] == wanted
        return int(self._order[place]) if found else None


class NumberIndex:
    """Finds the items of a list that have a given integer in one field.

    Args:
        members: the items.
        field: the field.

    Raises:
        DataError: an item has no such integer.
    """

    def __init__(self, members: Members, field: str) -> None:
        numbers = np.zeros(len(members), dtype=np.int64)
        for index in range(len(members)):
            item = members.read(index)
            value = item.get(field) if isinstance(item, dict) else None
            if not isinstance(value, int) or isinstance(value, bool):
                raise DataError(f"{members.where(index)}: '{field}' must be an integer")
            numbers[index] = value
        self._order = np.argsort(numbers, kind="stable")
        self._sorted: npt.NDArray[np.int64] = numbers[self._order]

    def find(self, number: int) -> list[int]:
        """Numbers of the items that have ``number``, in the order of the file."""
        start = int(np.searchsorted(self._sorted, number, side="left"))
        stop = int(np.searchsorted(self._sorted, number, side="right"))
        return [int(index) for index in self._order[start:stop]]


def local(path: Location) -> Path:
    """The path of a file that must be local.

    Raises:
        DataError: it is remote.
    """
    if isinstance(path, Path):
        return path
    raise DataError(f"{path}: this format is read from local files only; convert it to jsonl first")


def hash_key(key: bytes) -> int:
    """64 bits of a key: keys are not kept in memory."""
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")


def _scan(path: Path, section: str | None) -> Iterator[tuple[bytes, int, int]]:
    """Key, start and stop of the texts, lists and objects of a section."""
    level = 1 if section is None else 2
    depth, start, key = 0, 0, b""
    current: bytes | None = None
    seen: list[str] = []
    wanted = None if section is None else section.encode()
    for token, left, right, data in _tokens(path):
        inside = section is None or current == wanted
        if token == QUOTE:
            if depth == 1 and _is_key(data, right):
                current = data[left + 1 : right - 1]
                seen.append(current.decode("utf-8", "replace")[:40])
            if depth == level and inside:
                if _is_key(data, right):
                    key = data[left + 1 : right - 1]
                else:
                    yield key, left, right
        elif token in OPEN:
            depth += 1
            if depth == level + 1 and inside:
                start = left
        else:
            if depth == level + 1 and inside:
                yield key, start, right
            depth -= 1
    if depth != 0:
        raise DataError(f"{path}: the JSON is never closed; the file seems to be cut off")
    if section is not None and section not in seen:
        raise DataError(f"{path}: has no '{section}'; found {', '.join(seen[:6]) or 'nothing'}")


def _tokens(path: Path) -> Iterator[tuple[int, int, int, mmap.mmap]]:
    """Kind, start and stop of every string and bracket."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    with file:
        if not path.stat().st_size:
            raise DataError(f"{path}: is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for match in STRUCTURE.finditer(data):
                token = data[match.start()]
                if token == QUOTE and match.end() == match.start() + 1:
                    raise DataError(
                        f"{path}: a text that begins at byte {match.start()} never ends"
                    )
                yield token, match.start(), match.end(), data


def _is_key(data: mmap.mmap, stop: int) -> bool:
    while data[stop : stop + 1] in (b" ", b"\n", b"\t", b"\r"):
        stop += 1
    return data[stop : stop + 1] == b":"
