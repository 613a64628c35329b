"""What a builder makes of one item: samples, their pictures, and what had to be left out."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from PIL import Image

from triptych.data.schema import ImagePart, Record
from triptych.images.decode import content_hash, open_image

Suffix: TypeAlias = Literal["png", "jpg", "webp"]

OPTIONS: Mapping[str, dict[str, Any]] = {
    "png": {},
    "jpg": {"quality": 90},
    "webp": {"quality": 90, "method": 4},
}


@dataclass(frozen=True)
class Sample:
    """A record, and the file that it goes into.

    Attributes:
        file: such as ``train-lines.jsonl``; what stands before the first ``-`` or ``.`` is the
            split: ``train``, ``val`` or ``test``.
        record: without an id; its images come from the album.
    """

    file: str
    record: Record

    @property
    def split(self) -> str:
        """``train``, ``val`` or ``test``."""
        return self.file.partition(".")[0].partition("-")[0]


@dataclass(frozen=True)
class Rejected:
    """Something that was left out: a line of quarantine.jsonl."""

    where: str
    reason: str


@dataclass
class Album:
    """The pictures of one item of work.

    Attributes:
        root: the folder of the records.
        folder: where the pictures of this item go, below ``root``.
        hashes: SHA-256 of the pixels of every picture, by its path below ``root``.
        rejected: what was left out of the item.
    """

    root: Path
    folder: str
    hashes: dict[str, str] = field(default_factory=dict)
    rejected: list[Rejected] = field(default_factory=list)
    _names: dict[str, str] = field(default_factory=dict)

    def add(self, image: Image.Image, suffix: Suffix = "png") -> ImagePart:
        """Save a picture, once however often it is added."""
        found = content_hash(image.convert("RGB"))
        if found in self._names:
            return ImagePart(self._names[found], self.root)
        name = self._name(found, suffix)
        image.save(self.root / name, **OPTIONS[suffix])
        return ImagePart(name, self.root)

    def add_file(self, path: Path, *, link: bool = False) -> ImagePart:
        """Copy an image file as it is.

        Args:
            path: the file.
            link: make a hard link where the disk allows it: for files that nobody edits, such as
                those of another data set.

        Raises:
            ImageError: it is missing, damaged, or no image.
        """
        found = content_hash(open_image(path))
        if found not in self._names:
            target = self.root / self._name(found, path.suffix[1:].lower())
            try:
                if link:
                    target.hardlink_to(path)
            except OSError:
                link = False
            if not link:
                shutil.copyfile(path, target)
        return ImagePart(self._names[found], self.root)

    def reject(self, where: str, reason: str) -> None:
        """Leave a part of the item out: the rest of it is still used."""
        self.rejected.append(Rejected(where, reason))

    def _name(self, found: str, suffix: str) -> str:
        name = f"{self.folder}/{len(self._names):03d}.{suffix}"
        (self.root / self.folder).mkdir(parents=True, exist_ok=True)
        self._names[found], self.hashes[name] = name, found
        return name
