"""Reader of our own records: one JSON object a line, or one list of objects."""

from pathlib import Path

from triptych.data.readers.offsets import ObjectIndex, index_objects
from triptych.data.schema import Record, parse_record


class JsonlReader:
    """Records of ``path``, parsed when they are asked for.

    Args:
        path: the file.
        images: the folder that relative image paths start from; the file's folder when None.
    """

    def __init__(self, path: Path, images: Path | None = None) -> None:
        self.index: ObjectIndex = index_objects(path)
        self.images = path.parent if images is None else images

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int, /) -> Record:
        return parse_record(self.index.read(index), self.where(index), self.images)

    def where(self, index: int) -> str:
        """Name of a record: "file:line"."""
        return self.index.where(index)
