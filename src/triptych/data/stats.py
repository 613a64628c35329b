"""What a set of records looks like: distributions of its sizes, and what it holds twice."""

import hashlib
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from triptych.data.readers.base import Reader
from triptych.data.record import ImagePart, Record
from triptych.errors import DataError, ImageError
from triptych.images.decode import image_size

if TYPE_CHECKING:
    from triptych.model.processing import TriptychProcessor

Progress: TypeAlias = Callable[[int, int], None]

BINS = 12
RATIOS = (0.0, 0.25, 1 / 3, 0.5, 2 / 3, 0.8, 1.25, 1.5, 2.0, 3.0, 4.0, float("inf"))


@dataclass(frozen=True)
class Histogram:
    """Counts of values between edges.

    Attributes:
        edges: (n + 1) values; a bin holds what is at least its edge and below the next one.
        counts: (n,).
    """

    name: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    mean: float
    smallest: float
    largest: float


@dataclass
class Stats:
    """What ``measure_records`` found.

    Attributes:
        records: records read; ``bad`` of them could not be.
        images: images shown; ``distinct_images`` by name or content.
        duplicates: records whose texts and images were seen before.
        histograms: of rounds, images, aspect ratios (width over height), and with a processor
            tokens and tiles.
    """

    records: int = 0
    bad: int = 0
    images: int = 0
    distinct_images: int = 0
    unreadable_images: int = 0
    duplicates: int = 0
    histograms: list[Histogram] = field(default_factory=list)


class _Columns:
    """One number per record or image, held as machine numbers."""

    def __init__(self) -> None:
        self.values: dict[str, array[float]] = {}

    def add(self, name: str, value: float) -> None:
        self.values.setdefault(name, array("d")).append(value)

    def histograms(self) -> list[Histogram]:
        return [
            make_histogram(name, np.frombuffer(values, dtype=np.float64))
            for name, values in self.values.items()
        ]


def measure_records(
    reader: Reader,
    processor: "TriptychProcessor | None" = None,
    progress: Progress | None = None,
) -> Stats:
    """Read every record and the header of every image.

    Args:
        reader: the records.
        processor: counts tokens and tiles when given.
        progress: called with the records done and their number.
    """
    stats, columns = Stats(), _Columns()
    records, images = array("Q"), array("Q")
    sizes: dict[str, tuple[int, int] | None] = {}
    for index in range(len(reader)):
        try:
            record = reader[index].settled()
        except DataError:
            stats.bad += 1
        else:
            names = [_hash_image(part) for part in record.images]
            images.extend(names)
            records.append(_hash([record.wording_key, names]))
            _measure(record, columns, sizes, stats, processor)
        stats.records += 1
        if progress is not None:
            progress(index + 1, len(reader))
    stats.images = len(images)
    stats.distinct_images = len(np.unique(np.array(images, dtype=np.uint64)))
    stats.duplicates = len(records) - len(np.unique(np.array(records, dtype=np.uint64)))
    stats.histograms = columns.histograms()
    return stats


def make_histogram(name: str, values: npt.NDArray[np.float64]) -> Histogram:
    """Count values: few whole numbers one by one, ratios by fixed edges, others by octave."""
    largest = float(values.max())
    if name == "aspect ratio":
        edges = np.array(RATIOS)
    elif largest < BINS:
        edges = np.arange(0, int(largest) + 2, dtype=np.float64)
    else:
        top = int(np.ceil(np.log2(largest + 1)))
        edges = np.array([0.0, *(2.0**k for k in range(max(0, top - BINS + 1), top + 1))])
    places = np.searchsorted(edges, values, side="right") - 1
    counts = np.bincount(places, minlength=len(edges) - 1)[: len(edges) - 1]
    return Histogram(
        name,
        tuple(edges.tolist()),
        tuple(counts.tolist()),
        float(values.mean()),
        float(values.min()),
        largest,
    )


def draw(histogram: Histogram, width: int = 40) -> list[str]:
    """A histogram as lines of text."""
    most = max(histogram.counts) or 1
    lines = [
        f"{histogram.name}: mean {histogram.mean:.2f}, "
        f"{histogram.smallest:.4g} to {histogram.largest:.4g}"
    ]
    for left, right, count in zip(
        histogram.edges, histogram.edges[1:], histogram.counts, strict=False
    ):
        if count:
            single = right - left == 1 and left == int(left)
            label = f"{left:.0f}" if single else f"{left:.4g} to {right:.4g}"
            bar = "\u2588" * max(1, round(width * count / most))
            lines.append(f"  {label:>14} {bar} {count}")
    return lines


def _measure(
    record: Record,
    columns: _Columns,
    sizes: dict[str, tuple[int, int] | None],
    stats: Stats,
    processor: "TriptychProcessor | None",
) -> None:
    columns.add("rounds", sum(message.role == "user" for message in record.messages))
    columns.add("images", len(record.images))
    found = [_size(part, sizes) for part in record.images]
    known = [size for size in found if size is not None]
    stats.unreadable_images += len(found) - len(known)
    for width, height in known:
        columns.add("aspect ratio", width / height)
    if processor is None or len(known) < len(found):
        return
    try:
        columns.add("tokens", len(processor.encode(record.wording(), known)))
    except DataError:
        stats.bad += 1
        return
    columns.add("tiles", sum(processor.plan(*size).tiles for size in known))


def _size(part: ImagePart, sizes: dict[str, tuple[int, int] | None]) -> tuple[int, int] | None:
    location = part.location
    name = "" if isinstance(location, bytes) else str(location)
    if name not in sizes or not name:
        try:
            sizes[name] = image_size(location)
        except ImageError:
            sizes[name] = None
    return sizes[name]


def _hash_image(part: ImagePart) -> int:
    location = part.location
    return _hash(location if isinstance(location, bytes) else str(location))


def _hash(value: object) -> int:
    data = value if isinstance(value, bytes) else repr(value).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
