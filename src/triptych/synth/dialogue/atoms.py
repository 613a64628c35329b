"""Questions about single images, taken from the records of data sets that were built before."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from triptych.data.readers import open_reader
from triptych.data.schema import Record
from triptych.errors import DataError

LONGEST = 120
"""Characters of an answer that goes into a dialogue."""


@dataclass(frozen=True)
class Atom:
    """One question about one image, with its answer.

    Attributes:
        source, license, record: where it comes from; ``record`` is the id there.
    """

    question: str
    answer: str
    category: str
    source: str
    license: str
    record: str


@dataclass(frozen=True)
class Shown:
    """An image, and what can be asked about it."""

    path: Path
    atoms: tuple[Atom, ...]


def find_files(places: Sequence[Path], split: str) -> list[Path]:
    """The files of a split: those named, and those in the folders named.

    Raises:
        DataError: a place does not exist.
    """
    found: list[Path] = []
    for place in places:
        if not place.exists():
            raise DataError(f"{place}: no such file or folder")
        files = sorted(place.glob("*.jsonl")) if place.is_dir() else [place]
        found += [file for file in files if file.name.startswith((f"{split}.", f"{split}-"))]
    return found


def read_images(files: Sequence[Path]) -> Sequence[Shown]:
    """All images of the files that something short is asked about, sorted by their paths."""
    return _read(tuple((file, file.stat().st_mtime_ns) for file in files))


@cache
def _read(files: tuple[tuple[Path, int], ...]) -> Sequence[Shown]:
    atoms: Mapping[str, dict[Atom, None]] = defaultdict(dict)
    for file, _ in files:
        reader = open_reader(file)
        for index in range(len(reader)):
            record = reader[index]
            if len(record.images) == 1 and not isinstance(record.images[0].location, bytes):
                atoms[str(record.images[0].location)].update(dict.fromkeys(_atoms(record, file)))
    return [Shown(Path(path), tuple(found)) for path, found in sorted(atoms.items()) if found]


def _atoms(record: Record, file: Path) -> list[Atom]:
    """The rounds of a record: each question with the answer that follows it."""
    spoken = [message for message in record.messages if message.role in ("user", "assistant")]
    return [
        Atom(
            user.text.strip(),
            answer.text,
            answer.category or "question",
            record.source or file.stem,
            record.license or "unknown",
            record.id or record.where,
        )
        for user, answer in zip(spoken[::2], spoken[1::2], strict=False)
        if 0 < len(answer.text) <= LONGEST
    ]
