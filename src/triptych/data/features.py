"""Features of frozen towers, computed once and read from one memory-mapped file.

Shape suffixes: T tiles, P tokens of a tile before the connector, D channels of a token.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from triptych.data.feature_index import (
    DATA,
    INDEX,
    CacheIndex,
    Entry,
    is_whole,
    read_index,
    usable_index,
    write_index,
)
from triptych.data.schema import ImagePart
from triptych.data.workers import read_ahead
from triptych.errors import DataError, ImageError
from triptych.images.decode import ImageLimits, content_hash, open_image
from triptych.model.processing import TriptychProcessor

Features: TypeAlias = npt.NDArray[np.float16]
Encode: TypeAlias = Callable[[Tensor], Tensor]
Progress: TypeAlias = Callable[[int, int], None]


class FeatureCache:
    """Features of images by name; images with the same content share their rows.

    Open one that was built with ``FeatureCache(folder, fingerprint)``, or build it with ``build``.

    Raises:
        DataError: when the folder holds no cache, or one made with other towers or tiling.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder
        index = read_index(folder)
        if index is None:
            raise DataError(f"{folder}: holds no feature cache; build it first")
        if index.fingerprint != fingerprint:
            raise DataError(
                f"{folder}: the features were made with other towers or another tiling; "
                "build them again"
            )
        self.index = index
        if not is_whole(folder, index):
            raise DataError(f"{folder}: the feature file is cut off; delete the folder")
        shape = (index.rows, index.tokens, index.width)
        self._rows: Features = (
            np.memmap(folder / DATA, dtype=np.float16, mode="r", shape=shape)
            if index.rows
            else np.zeros(shape, dtype=np.float16)
        )

    def __reduce__(self) -> tuple[type["FeatureCache"], tuple[Path, str]]:
        # A worker maps the file itself; pickling the map would copy every feature.
        return FeatureCache, (self.folder, self.index.fingerprint)

    def __len__(self) -> int:
        return len(self.index.images)

    def get(self, part: ImagePart) -> Features:
        """Features (T, P, D) of an image, copied out of the file."""
        entry = self._entry(part)
        return np.array(self._rows[entry.start : entry.stop])

    def size(self, part: ImagePart) -> tuple[int, int]:
        """Width and height in pixels of an image."""
        entry = self._entry(part)
        return entry.width, entry.height

    def _entry(self, part: ImagePart) -> Entry:
        name = image_name(part)
        if name in self.index.failed:
            raise ImageError(self.index.failed[name])
        if name not in self.index.names:
            raise ImageError(f"{part.name}: is not in the feature cache {self.folder}")
        return self.index.images[self.index.names[name]]

    @classmethod
    def build(
        cls,
        folder: Path,
        fingerprint: str,
        images: Iterable[ImagePart],
        processor: TriptychProcessor,
        encode: Encode,
        *,
        device: torch.device | str = "cpu",
        batch_tiles: int = 64,
        workers: int = 0,
        limits: ImageLimits | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        progress: Progress | None = None,
    ) -> "FeatureCache":
        """Compute the features of ``images``; those that the cache has already are kept.

        The folder appears whole or not at all: everything is written under a temporary name.

        Args:
            folder: where the cache is, or will be.
            fingerprint: names the towers, their weights and the tiling (``fingerprint_of``).
            images: what to compute; repeats are computed once.
            processor: cuts images into tiles.
            encode: uint8 tiles (T, 3, S, S) on ``device`` -> features (T, P, D).
            device: where ``encode`` wants its tiles.
            batch_tiles: tiles given to ``encode`` at once, more when one image has more.
            workers: processes that decode ahead.
            limits: largest image that is opened.
            on_error: with skip, images that cannot be decoded are remembered as failed.
            progress: called with the images done and their number.

        Raises:
            ImageError: when an image cannot be decoded and ``on_error`` is raise.
            DataError: when features are too large for 16 bits.
        """
        limits = limits or ImageLimits()
        parts = list({image_name(part): part for part in images}.values())
        if _is_current(folder, fingerprint, parts, on_error):
            return cls(folder, fingerprint)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _new_folder(folder) as temporary:
            writer = _Writer(temporary / DATA, encode, torch.device(device), batch_tiles)
            fresh = writer.take_over(folder, fingerprint, parts)
            decoded = _decode(fresh, _Decoder(processor, limits), workers, on_error)
            for done, image in enumerate(decoded, start=1 + len(parts) - len(fresh)):
                writer.add(image)
                if progress is not None:
                    progress(done, len(parts))
            writer.write_index(fingerprint, temporary / INDEX)
        return cls(folder, fingerprint)


def image_name(part: ImagePart) -> str:
    """The key of an image: its path, or a hash where the record carries the image itself."""
    location = part.location
    if isinstance(location, bytes) or str(location).startswith("data:"):
        return "sha256:" + content_hash(location)
    return str(location)


def _is_current(folder: Path, fingerprint: str, parts: Sequence[ImagePart], on_error: str) -> bool:
    index = usable_index(folder, fingerprint)
    if index is None:
        return False
    for part in parts:
        name = image_name(part)
        if on_error == "skip" and name in index.failed:
            continue
        if index.names.get(name) != _content(part):
            return False
    return True


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of ``folder`` when the block ends well."""
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield temporary
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@dataclass(frozen=True)
class _Decoded:
    """One image ready for the towers, or the reason why it is not."""

    name: str
    content: str
    width: int = 0
    height: int = 0
    tiles: npt.NDArray[Any] | None = None
    reason: str = ""


@dataclass(frozen=True)
class _Decoder:
    processor: TriptychProcessor
    limits: ImageLimits

    def __call__(self, part: ImagePart) -> _Decoded:
        name = image_name(part)
        try:
            image = open_image(part.location, limits=self.limits)
            content = content_hash(part.location)
        except ImageError as error:
            return _Decoded(name, "", reason=str(error))
        return _Decoded(name, content, image.width, image.height, self.processor.tiles(image))


class _Images(Dataset[_Decoded]):
    def __init__(self, parts: Sequence[ImagePart], decode: _Decoder) -> None:
        self.parts, self.decode = parts, decode

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: int) -> _Decoded:
        return self.decode(self.parts[index])


def _decode(
    parts: Sequence[ImagePart], decode: _Decoder, workers: int, on_error: str
) -> Iterator[_Decoded]:
    for image in read_ahead(_Images(parts, decode), range(len(parts)), workers):
        if image.reason and on_error == "raise":
            raise ImageError(image.reason)
        yield image


def _content(part: ImagePart) -> str:
    """The hash of an image; empty where it cannot be read, which decoding reports."""
    try:
        return content_hash(part.location)
    except ImageError:
        return ""


class _Writer:
    """Encodes tiles in batches and appends their features to one file."""

    def __init__(self, path: Path, encode: Encode, device: torch.device, batch_tiles: int) -> None:
        self.path, self.encode, self.device, self.batch_tiles = path, encode, device, batch_tiles
        self.images: dict[str, Entry] = {}
        self.names: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        self.pending: list[npt.NDArray[Any]] = []
        self.rows = 0
        self.shape = (0, 0)
        path.touch()

    def take_over(
        self, folder: Path, fingerprint: str, parts: Sequence[ImagePart]
    ) -> list[ImagePart]:
        """Begin with an earlier cache of the same towers; returns the images it does not have."""
        index = usable_index(folder, fingerprint)
        if index is None:
            return list(parts)
        found = {image_name(part): _content(part) for part in parts}
        self.names = {name: content for name, content in found.items() if content in index.images}
        if not self.names:
            return list(parts)
        shutil.copyfile(folder / DATA, self.path)
        self.images, self.shape = dict(index.images), (index.tokens, index.width)
        self.rows = index.rows
        return [part for part in parts if image_name(part) not in self.names]

    def add(self, image: _Decoded) -> None:
        if image.tiles is None:
            self.failed[image.name] = image.reason
            return
        self.names[image.name] = image.content
        if image.content in self.images:
            return
        stop = self.rows + len(image.tiles)
        self.images[image.content] = Entry(self.rows, stop, image.width, image.height)
        self.rows = stop
        self.pending.append(image.tiles)
        if sum(len(tiles) for tiles in self.pending) >= self.batch_tiles:
            self.flush()

    def flush(self) -> None:
        if not self.pending:
            return
        tiles = torch.from_numpy(np.concatenate(self.pending)).to(self.device)
        self.pending = []
        with torch.inference_mode():
            features = self.encode(tiles).to(torch.float16).cpu()
        if not bool(torch.isfinite(features).all()):
            raise DataError(
                "the features of the towers are too large for 16 bits or not finite; "
                "train without data.cache_features"
            )
        self.shape = (features.shape[1], features.shape[2])
        with self.path.open("ab") as file:
            file.write(features.contiguous().numpy().tobytes())

    def write_index(self, fingerprint: str, path: Path) -> None:
        self.flush()
        index = CacheIndex(fingerprint, *self.shape, self.images, self.names, self.failed)
        write_index(index, path)
