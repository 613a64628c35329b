"""What things are pasted on: patterns that are drawn, and wallpapers where copyleft is wanted."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from triptych.errors import DataError, ImageError
from triptych.images.decode import open_image
from triptych.synth.packages import Package
from triptych.synth.split import held_out

WALLPAPERS = Package(
    "deb",
    "plasma-workspace-wallpapers",
    "4:5.27.5-2",
    "32cd18b71c8c938a18b3b351f217c02ac590e323caa3cf322fbb875ce8892f8b",
    "LGPL-3.0 or CC-BY-SA-4.0, per picture",
    94_047_772,
    copyleft=True,
)
PATTERNS = ("plain", "gradient", "stripes", "checks", "dots", "noise")
UNSEEN = frozenset({"checks", "noise"})
"""Patterns of held-out pictures only."""
OWN = "patterns"
ENOUGH = 1000
"""Pixels of the longer side of a wallpaper that is large enough."""


@dataclass(frozen=True)
class Ground:
    """Something to paste on.

    Attributes:
        name: of a pattern, or of a wallpaper.
        source, license: where it comes from.
        file: of a wallpaper.
        unseen: whether it is for held-out pictures only.
    """

    name: str
    source: str
    license: str
    file: Path | None
    unseen: bool

    def draw(self, side: int, rng: random.Random) -> Image.Image:
        """A square of it.

        Raises:
            ImageError: the file is damaged.
        """
        if self.file is None:
            return _pattern(self.name, side, rng)
        whole = _small(self.file)
        edge = rng.randint(min(whole.size) // 2, min(whole.size))
        left, top = rng.randint(0, whole.width - edge), rng.randint(0, whole.height - edge)
        return whole.crop((left, top, left + edge, top + edge)).resize((side, side))


def find_grounds(wallpapers: Path | None, share: float) -> list[Ground]:
    """All grounds: the patterns, and the wallpapers of an unpacked package.

    Args:
        wallpapers: folder of the package; None for patterns alone.
        share: of the wallpapers that is held out.

    Raises:
        DataError: the package has another layout.
    """
    grounds = [Ground(name, OWN, "Apache-2.0", None, name in UNSEEN) for name in PATTERNS]
    if wallpapers is None:
        return grounds
    folders = sorted((wallpapers / "usr/share/wallpapers").glob("*/metadata.json"))
    if not folders:
        raise DataError(f"{wallpapers}: no usr/share/wallpapers/*/metadata.json is in the package")
    for metadata in folders:
        name = metadata.parent.name
        license = _license(metadata)
        file = _choose(metadata.parent)
        if file is not None:
            unseen = held_out(f"wallpaper {name}", share)
            grounds.append(Ground(name, WALLPAPERS.source, license, file, unseen))
    return grounds


def _license(metadata: Path) -> str:
    try:
        found = json.loads(metadata.read_text(encoding="utf-8"))["KPlugin"]["License"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{metadata}: says nothing about a licence ({error!r})") from None
    return "LGPL-3.0" if found == "LGPLv3" else str(found)


def _choose(folder: Path) -> Path | None:
    """The smallest picture that is large enough; names are WIDTHxHEIGHT."""
    sized: list[tuple[int, Path]] = []
    for path in sorted((folder / "contents" / "images").glob("*x*.*")):
        sides = path.stem.split("x")
        if all(side.isdigit() for side in sides) and max(map(int, sides)) >= ENOUGH:
            sized.append((max(map(int, sides)), path))
    return min(sized)[1] if sized else None


@lru_cache(maxsize=32)
def _small(file: Path) -> Image.Image:
    """The longer side of a wallpaper may be 5,120 pixels: no ground needs so many."""
    try:
        picture = open_image(file)
    except ImageError as error:
        raise ImageError(f"wallpaper {error}") from None
    picture.thumbnail((1280, 1280))
    return picture


def _pattern(name: str, side: int, rng: random.Random) -> Image.Image:
    first, second = _colours(rng)
    if name == "gradient":
        slope = np.linspace(0, 1, side)[None, :, None] * np.ones((side, 1, 1))
        mixed = np.array(first) * (1 - slope) + np.array(second) * slope
        turned = np.rot90(mixed, rng.randrange(4))
        return Image.fromarray(turned.round().astype(np.uint8))
    if name == "noise":
        own = np.random.default_rng(rng.getrandbits(32))
        grain = own.normal(0, rng.uniform(6, 18), (side, side, 1))
        return Image.fromarray(np.clip(np.array(first) + grain, 0, 255).astype(np.uint8))
    picture = Image.new("RGB", (side, side), first)
    pen, step = ImageDraw.Draw(picture), rng.randint(side // 24, side // 6)
    for row in range(0, side, step):
        if name == "stripes" and row // step % 2:
            pen.rectangle((0, row, side, row + step - 1), fill=second)
        for column in range(0, side, step):
            if name == "checks" and (row + column) // step % 2:
                pen.rectangle((column, row, column + step - 1, row + step - 1), fill=second)
            if name == "dots":
                pen.ellipse((column, row, column + step // 2, row + step // 2), fill=second)
    return picture


def _colours(rng: random.Random) -> Sequence[tuple[int, int, int]]:
    """Two pale colours that are not far from each other."""
    first = [rng.randint(150, 255) for _ in range(3)]
    second = [min(255, max(120, value + rng.randint(-40, 40))) for value in first]
    return [(first[0], first[1], first[2]), (second[0], second[1], second[2])]
