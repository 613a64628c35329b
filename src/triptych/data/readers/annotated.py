"""What readers of annotated images share: COCO's two sections, and a record of rounds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from triptych.data.readers.base import Location
from triptych.data.readers.members import Members, NumberIndex
from triptych.data.schema import Record, parse_record
from triptych.errors import DataError


class CocoImages:
    """Images with their annotations, from a COCO file of ``images`` and ``annotations``.

    Args:
        path: the file.

    Raises:
        DataError: it has no such sections.
    """

    def __init__(self, path: Location) -> None:
        self.images, self.annotations = Members(path, "images"), Members(path, "annotations")
        self._of_image = NumberIndex(self.annotations, "image_id")

    def __len__(self) -> int:
        return len(self.images)

    def where(self, index: int) -> str:
        """Name of an image for messages."""
        return self.images.where(index)

    def look(self, index: int) -> tuple[Mapping[str, Any], list[tuple[Mapping[str, Any], str]]]:
        """An image, and its annotations with a name for messages."""
        image = self.images.fields(index)
        number = image.get("id")
        found = self._of_image.find(number) if isinstance(number, int) else []
        return image, [(self.annotations.fields(k), self.annotations.where(k)) for k in found]


def image_record(
    fields: Mapping[str, Any], rounds: Sequence[tuple[str, str]], where: str, root: Path | None
) -> Record:
    """A record of questions and answers about the image of an entry, which the first one shows.

    Raises:
        DataError: the entry has no image.
    """
    image = fields.get("image")
    if not isinstance(image, str | bytes):
        raise DataError(f"{where}: 'image' must be a path")
    messages: list[dict[str, object]] = []
    for question, answer in rounds:
        shown = [] if messages else [{"type": "image", "image": image}]
        messages.append({"role": "user", "content": [*shown, {"type": "text", "text": question}]})
        messages.append({"role": "assistant", "content": answer})
    return parse_record({"messages": messages, "id": fields.get("id")}, where, root)
