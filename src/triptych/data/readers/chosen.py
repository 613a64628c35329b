"""Some of the records of a reader: those whose answers are of certain categories."""

from collections.abc import Collection

import numpy as np

from triptych.data.readers.base import Reader
from triptych.data.record import Record
from triptych.errors import DataError


class OfCategories:
    """The records of ``reader`` of which every answer is of one of ``categories``.

    A record that cannot be read stays, so that it is reported where all bad records are.

    Raises:
        DataError: no record is left; the message names the categories that there are.
    """

    def __init__(self, reader: Reader, categories: Collection[str]) -> None:
        self.reader = reader
        wanted, seen = frozenset(categories), set[str | None]()
        kept = []
        for index in range(len(reader)):
            found = _categories(reader, index)
            seen |= found or set()
            if found is None or (found and found <= wanted):
                kept.append(index)
        if not kept:
            there = ", ".join(sorted(name for name in seen if name)) or "none at all"
            raise DataError(
                f"no record has only answers of the categories {', '.join(sorted(wanted))}; "
                f"there are: {there}"
            )
        self._kept = np.array(kept, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int, /) -> Record:
        return self.reader[int(self._kept[index])]

    def where(self, index: int) -> str:
        """Name of a record in its file."""
        return self.reader.where(int(self._kept[index]))


def _categories(reader: Reader, index: int) -> set[str | None] | None:
    """The categories of the answers of a record that are in the loss; None if it cannot be read."""
    try:
        return {message.category for message in reader[index].messages if message.learned}
    except DataError:
        return None
