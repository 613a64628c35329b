"""Choosing the storage of a file by its name."""

from pathlib import Path

from triptych.data.readers.base import Location, Table
from triptych.data.readers.offsets import index_objects
from triptych.data.readers.parquet import DatasetTable, ParquetTable
from triptych.data.readers.shards import ShardTable


def open_table(location: Location) -> Table:
    """Open a file of entries.

    ``*.parquet`` and ``*.tar`` may be a range of files (``{000..012}``, ``*``); a folder is a
    Hugging Face dataset that was saved to disk; everything else is JSON lines or a JSON list.

    Raises:
        DataError: it cannot be opened or indexed.
    """
    suffix = Path(str(location)).suffix.lower()
    if suffix == ".parquet":
        return ParquetTable(location)
    if suffix == ".tar":
        return ShardTable(location)
    if isinstance(location, Path) and location.is_dir():
        return DatasetTable(location)
    return index_objects(location)
