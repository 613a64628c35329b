"""The protocol of a reader."""

from typing import Protocol

from triptych.data.schema import Record


class Reader(Protocol):
    """A random-access sequence of records that holds no record in memory."""

    def __len__(self) -> int:
        """Records in the file."""

    def __getitem__(self, index: int, /) -> Record:
        """Read one record; raises DataError when it is not valid."""

    def where(self, index: int) -> str:
        """Name of a record for messages, known even when the record cannot be read."""
