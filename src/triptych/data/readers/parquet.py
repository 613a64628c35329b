"""Entries from Parquet files, and from Hugging Face datasets saved to disk.

Only the row group (or the record batch) that holds an entry is read. pyarrow is optional: install
``triptych[data]``.
"""

import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from triptych.data.readers.base import Location
from triptych.data.readers.files import expand, is_remote, open_binary
from triptych.errors import DataError

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.ipc
    import pyarrow.parquet

KEPT_BATCHES = 2


class _Batches:
    """Rows of several files, read a batch at a time; the last few batches are kept."""

    def __init__(self, files: Sequence[Location], counts: Sequence[Sequence[int]]) -> None:
        self.files = list(files)
        self.places = [(f, b) for f, sizes in enumerate(counts) for b in range(len(sizes))]
        self.stops = np.cumsum([size for sizes in counts for size in sizes], dtype=np.int64)
        self.firsts = np.cumsum([0, *(sum(sizes) for sizes in counts)], dtype=np.int64)
        self._kept: dict[int, Any] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_kept": {}}

    def __len__(self) -> int:
        return int(self.stops[-1]) if len(self.stops) else 0

    def where(self, index: int) -> str:
        """Name of a row: "file:row", from 1."""
        file = int(np.searchsorted(self.firsts, index, side="right")) - 1
        return f"{self.files[file]}:{index - int(self.firsts[file]) + 1}"

    def read(self, index: int) -> object:
        """One row as a dict; images of the ``datasets`` library become their bytes or path."""
        batch = int(np.searchsorted(self.stops, index, side="right"))
        start = int(self.stops[batch - 1]) if batch else 0
        if batch not in self._kept:
            while len(self._kept) >= KEPT_BATCHES:
                del self._kept[next(iter(self._kept))]
            self._kept[batch] = self._load(*self.places[batch])
        row = self._kept[batch].slice(index - start, 1).to_pylist()[0]
        return {key: simplify(value) for key, value in row.items()}

    def _load(self, file: int, batch: int) -> "pyarrow.Table | pyarrow.RecordBatch":
        raise NotImplementedError


class ParquetTable(_Batches):
    """Rows of Parquet files.

    Args:
        location: a file, a remote file, or a name with ``*`` or ``{00..12}``.

    Raises:
        DataError: a file is not Parquet, or pyarrow is not installed.
    """

    def __init__(self, location: Location) -> None:
        files = expand(location)
        counts = []
        for file in files:
            meta = _parquet(file).metadata
            counts.append([meta.row_group(k).num_rows for k in range(meta.num_row_groups)])
        super().__init__(files, counts)

    def _load(self, file: int, batch: int) -> "pyarrow.Table":
        return _parquet(self.files[file]).read_row_group(batch)


class DatasetTable(_Batches):
    """Rows of a folder that ``Dataset.save_to_disk`` of the ``datasets`` library wrote.

    Args:
        folder: it holds state.json and the Arrow files that it names.

    Raises:
        DataError: it is no such folder, or its rows were selected but not flattened.
    """

    def __init__(self, folder: Path) -> None:
        state = _state(folder)
        if state.get("_indices_files") or state.get("_indices_data_files"):
            raise DataError(
                f"{folder}: its rows were shuffled or selected without being rewritten; call "
                "flatten_indices() before save_to_disk()"
            )
        try:
            files = [folder / file["filename"] for file in state["_data_files"]]
        except (KeyError, TypeError):
            raise DataError(f"{folder}/state.json: does not name its data files") from None
        counts = []
        for file in files:
            reader = _arrow(file)
            counts.append([batch.num_rows for batch in reader])
        super().__init__(files, counts)

    def _load(self, file: int, batch: int) -> "pyarrow.RecordBatch":
        # The file is memory-mapped: batches that are passed over cost no copy.
        for number, found in enumerate(_arrow(self.files[file])):
            if number == batch:
                return found
        raise DataError(f"{self.files[file]}: has become shorter while it was in use")


def simplify(value: object) -> object:
    """Bring a value to what JSON could hold, but images to their bytes or path."""
    if isinstance(value, dict):
        if set(value) == {"bytes", "path"}:
            return value["path"] if value["bytes"] is None else value["bytes"]
        return {key: simplify(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [simplify(item) for item in value]
    return value


def _import(name: str, location: Location) -> ModuleType:
    """Import a part of pyarrow, which is optional and takes long."""
    try:
        return import_module(name)
    except ImportError:
        raise DataError(
            f"{location}: pyarrow is needed to read this; install triptych[data]"
        ) from None


def _parquet(file: Location) -> "pyarrow.parquet.ParquetFile":
    pa, parquet = _import("pyarrow", file), _import("pyarrow.parquet", file)
    source = open_binary(file) if is_remote(file) else str(file)
    try:
        return parquet.ParquetFile(source)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: is not a Parquet file that can be read: {error}") from None


def _arrow(file: Location) -> "pyarrow.ipc.RecordBatchStreamReader":
    pa, ipc = _import("pyarrow", file), _import("pyarrow.ipc", file)
    try:
        return ipc.open_stream(pa.memory_map(str(file)))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: is not an Arrow file that can be read: {error}") from None


def _state(folder: Path) -> dict[str, Any]:
    path = folder / "state.json"
    try:
        state = json.loads(path.read_text("utf-8"))
    except OSError:
        raise DataError(
            f"{folder}: holds no state.json; a folder written by Dataset.save_to_disk is expected "
            "(of a DatasetDict name one of its folders)"
        ) from None
    except ValueError as error:
        raise DataError(f"{path}: is not JSON: {error}") from None
    if not isinstance(state, dict):
        raise DataError(f"{path}: must be an object")
    return state
