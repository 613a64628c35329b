"""Entries from WebDataset shards: tar files whose members are grouped by name.

A shard is indexed by the offsets of its members in one pass over their headers; nothing is
unpacked. Member ``000123.left.jpg`` is part ``left.jpg`` of sample ``000123``.
"""

import tarfile
from array import array
from collections.abc import Iterator

import numpy as np

from triptych.data.readers.base import Location
from triptych.data.readers.files import ReadAt, expand, open_binary
from triptych.data.readers.offsets import decode_json
from triptych.errors import DataError

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".avif")


class ShardTable:
    """Samples of tar files, as entries: ``json`` fields, and parts by their name.

    The ``json`` part must be an object and gives the entry its fields; ``txt`` is a caption. Image
    parts are put in by name wherever a field names them (``{"image": "left.jpg"}``); when none is
    named, all of them are listed under ``images``, in order.

    Args:
        location: a shard, a remote shard, or a name with ``*`` or ``{000..012}``.

    Raises:
        DataError: a file is not a tar file.
    """

    def __init__(self, location: Location) -> None:
        self.files = expand(location)
        self._parts: list[str] = []
        samples, members = array("q"), array("q")
        for number, file in enumerate(self.files):
            for parts in self._samples(file):
                samples.extend((number, len(members) // 3))
                for part in parts:
                    members.extend(part)
        samples.extend((len(self.files), len(members) // 3))
        # (n + 1, 2): shard and first member of each sample; (m, 3): part name, start, size.
        self.samples = np.array(samples, dtype=np.int64).reshape(-1, 2)
        self.members = np.array(members, dtype=np.int64).reshape(-1, 3)
        self._read = [ReadAt(file) for file in self.files]
        self._first = np.searchsorted(self.samples[:-1, 0], np.arange(len(self.files)))

    def __len__(self) -> int:
        return len(self.samples) - 1

    def where(self, index: int) -> str:
        """Name of a sample: "shard:number", from 1."""
        shard = int(self.samples[index, 0])
        return f"{self.files[shard]}:{index - int(self._first[shard]) + 1}"

    def read(self, index: int) -> object:
        """The parts of one sample."""
        shard, first = self.samples[index].tolist()
        parts: dict[str, bytes] = {}
        for name, start, size in self.members[first : int(self.samples[index + 1, 1])].tolist():
            parts[self._parts[name]] = self._read[shard](start, start + size)
        return assemble(parts, self.where(index))

    def _samples(self, file: Location) -> Iterator[list[tuple[int, int, int]]]:
        """Parts of each sample of a shard: name, start, size."""
        key = ("", "")
        parts: list[tuple[int, int, int]] = []
        known = {name: number for number, name in enumerate(self._parts)}
        for member in _members(file):
            folder, _, name = member.name.rpartition("/")
            stem, _, part = name.partition(".")
            if not part:
                continue
            if (folder, stem) != key and parts:
                yield parts
                parts = []
            key = (folder, stem)
            if part.lower() not in known:
                known[part.lower()] = len(self._parts)
                self._parts.append(part.lower())
            parts.append((known[part.lower()], member.offset_data, member.size))
        if parts:
            yield parts


def assemble(parts: dict[str, bytes], where: str) -> dict[str, object]:
    """Make one entry from the parts of a sample.

    Raises:
        DataError: a text part cannot be read.
    """
    entry: dict[str, object] = {}
    if "json" in parts:
        fields = decode_json(parts["json"], f"{where}: part json")
        if not isinstance(fields, dict):
            raise DataError(f"{where}: part json must be an object")
        entry.update(fields)
    if "txt" in parts and "caption" not in entry:
        try:
            entry["caption"] = parts["txt"].decode("utf-8").strip()
        except UnicodeDecodeError:
            raise DataError(f"{where}: part txt is not UTF-8") from None
    pictures = {name: data for name, data in parts.items() if f".{name}".endswith(IMAGES)}
    named: set[str] = set()
    placed = {key: _place(value, pictures, named) for key, value in entry.items()}
    if pictures and not named:
        images = [pictures[name] for name in sorted(pictures)]
        placed["image" if len(images) == 1 else "images"] = (
            images[0] if len(images) == 1 else images
        )
    return placed


def _place(value: object, pictures: dict[str, bytes], named: set[str]) -> object:
    """Put the bytes of an image where its part is named."""
    if isinstance(value, str) and value.lower() in pictures:
        named.add(value.lower())
        return pictures[value.lower()]
    if isinstance(value, dict):
        return {
            key: _place(item, pictures, named) if key not in ("text", "role", "type") else item
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_place(item, pictures, named) for item in value]
    return value


def _members(file: Location) -> Iterator[tarfile.TarInfo]:
    with open_binary(file) as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                while (member := tar.next()) is not None:
                    # The tar file would keep the name of every member it has seen.
                    tar.members = []  # type: ignore[attr-defined]
                    if member.isfile():
                        yield member
        except (tarfile.TarError, EOFError, OSError) as error:
            raise DataError(f"{file}: is not a tar file that can be read: {error}") from None
