"""The protocols of a reader: storage gives entries, a shape turns an entry into a record."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from triptych.data.schema import Record
from triptych.errors import DataError

# A path, or the address of a remote file that fsspec opens ("s3://...").
Location: TypeAlias = Path | str


def fields_of(entry: object, where: str) -> Mapping[str, Any]:
    """The fields of an entry.

    Raises:
        DataError: it is no object.
    """
    if not isinstance(entry, Mapping):
        raise DataError(f"{where}: an object is expected")
    return entry


class Reader(Protocol):
    """A random-access sequence of records that holds no record in memory."""

    def __len__(self) -> int:
        """Records in the file."""

    def __getitem__(self, index: int, /) -> Record:
        """Read one record; raises DataError when it is not valid."""

    def where(self, index: int) -> str:
        """Name of a record for messages, known even when the record cannot be read."""


class Table(Protocol):
    """A random-access sequence of entries in whatever shape they were stored."""

    def __len__(self) -> int:
        """Entries in the file."""

    def read(self, index: int) -> object:
        """Read one entry; raises DataError when it cannot be."""

    def where(self, index: int) -> str:
        """Name of an entry for messages."""


class Convert(Protocol):
    """Turns one entry into a record; raises DataError naming what is wrong with it."""

    def __call__(self, entry: object, where: str, root: Path | None = None, /) -> Record:
        """Convert an entry whose relative image paths start from ``root``."""


class ShapedReader:
    """Records of a table of entries of one shape, converted when they are asked for.

    Args:
        table: the entries.
        convert: their shape.
        images: the folder that relative image paths start from.
    """

    def __init__(self, table: Table, convert: Convert, images: Path | None) -> None:
        self.table, self.convert, self.images = table, convert, images

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int, /) -> Record:
        return self.convert(self.table.read(index), self.table.where(index), self.images)

    def where(self, index: int) -> str:
        """Name of a record: file and line, or file and number."""
        return self.table.where(index)
