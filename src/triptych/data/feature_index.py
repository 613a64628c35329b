"""What a feature cache holds: the index beside its file.

Shape suffixes: P tokens of a tile, D channels of a token.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from triptych.errors import DataError

DATA, INDEX, LAYOUT_VERSION = "features.f16", "index.json", 1


@dataclass(frozen=True)
class Entry:
    """Rows [start, stop) of the file that hold one image, and its size in pixels."""

    start: int
    stop: int
    width: int
    height: int


@dataclass(frozen=True)
class CacheIndex:
    """What index.json holds.

    Attributes:
        fingerprint: what the features were made with.
        tokens, width: P and D of every tile.
        images: content hash -> where its features are.
        names: path or content name of an image -> its content hash.
        failed: name of an image that could not be decoded -> why.
    """

    fingerprint: str
    tokens: int
    width: int
    images: dict[str, Entry]
    names: dict[str, str]
    failed: dict[str, str]

    @property
    def rows(self) -> int:
        """Tiles in the file."""
        return max((entry.stop for entry in self.images.values()), default=0)


def read_index(folder: Path) -> CacheIndex | None:
    """Read the index of a cache; None where there is none.

    Raises:
        DataError: when index.json is there but cannot be understood.
    """
    path = folder / INDEX
    if not path.is_file():
        return None
    try:
        plain: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if plain.pop("version") != LAYOUT_VERSION:
            return None
        plain["images"] = {name: Entry(**entry) for name, entry in plain["images"].items()}
        return CacheIndex(**plain)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: is damaged ({error}); delete the folder {folder} and run again"
        ) from None


def usable_index(folder: Path, fingerprint: str) -> CacheIndex | None:
    """The index of a whole cache of the same towers and tiling; None where there is none.

    Raises:
        DataError: when index.json is there but cannot be understood.
    """
    index = read_index(folder)
    if index is None or index.fingerprint != fingerprint or not is_whole(folder, index):
        return None
    return index


def is_whole(folder: Path, index: CacheIndex) -> bool:
    """Whether the file of features is as long as the index says."""
    data = folder / DATA
    return data.is_file() and data.stat().st_size == index.rows * index.tokens * index.width * 2


def write_index(index: CacheIndex, path: Path) -> None:
    """Write index.json."""
    plain = {"version": LAYOUT_VERSION, **asdict(index)}
    path.write_text(json.dumps(plain), "utf-8")
