"""The size pass: every record is read once, from headers alone, before training begins."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from triptych.data.blend import blend
from triptych.data.encode import Encoder, RecordImageError
from triptych.data.mixture import Amount
from triptych.data.preferences import pair_size
from triptych.data.readers import open_reader
from triptych.data.readers.base import Reader
from triptych.data.readers.chosen import OfCategories
from triptych.data.schema import Record
from triptych.data.spec import SourceSpec
from triptych.data.workers import read_ahead
from triptych.errors import DataError

IntArray: TypeAlias = npt.NDArray[np.int64]
Progress: TypeAlias = Callable[[int, int], None]

CHUNK = 256


@dataclass(frozen=True)
class Skipped:
    """A sample that was left out, as written to quarantine.jsonl."""

    where: str
    image: str | None
    reason: str


@dataclass(frozen=True)
class SourceReport:
    """What became of the records of one source.

    ``records`` = ``kept`` + ``dropped`` + ``skipped``; ``trimmed`` of the kept ones lost rounds.
    """

    name: str
    records: int
    kept: int
    trimmed: int
    dropped: int
    skipped: int
    tokens: int
    tiles: int
    images: int

    def __str__(self) -> str:
        text = (
            f"{self.name}: {self.kept} of {self.records} records, {self.tokens} tokens, "
            f"{self.tiles} tiles"
        )
        lost = {
            "trimmed to fit": self.trimmed,
            "dropped as too long": self.dropped,
            "skipped as bad (see quarantine.jsonl)": self.skipped,
        }
        return text + "".join(f", {count} {what}" for what, count in lost.items() if count)


@dataclass(frozen=True)
class Source:
    """The usable samples of one file.

    Attributes:
        kept: (n,) numbers of the usable records in the reader.
        sizes: (n, 2) their tokens and tiles.
    """

    name: str
    reader: Reader
    kept: IntArray
    sizes: IntArray
    report: SourceReport


class Corpus:
    """Usable samples of several sources, numbered one source after the other."""

    def __init__(self, sources: Sequence[Source], skipped: Sequence[Skipped] = ()) -> None:
        self.sources = list(sources)
        self.skipped = list(skipped)
        self._stops = np.cumsum([len(source.kept) for source in sources], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._stops[-1]) if self.sources else 0

    def locate(self, sample: int) -> tuple[Source, int]:
        """The source of a sample and the number of its record in the reader."""
        place = int(np.searchsorted(self._stops, sample, side="right"))
        source = self.sources[place]
        start = int(self._stops[place]) - len(source.kept)
        return source, int(source.kept[sample - start])

    def record(self, sample: int) -> Record:
        """Read a sample."""
        source, index = self.locate(sample)
        return source.reader[index]

    def where(self, sample: int) -> str:
        """Name of a sample: "file:line"."""
        source, index = self.locate(sample)
        return source.reader.where(index)

    def amounts(self) -> dict[str, Amount]:
        """What one pass over each source is worth, for a mixture."""
        return {r.name: Amount(r.kept, r.tokens, r.images) for r in self.reports}

    @property
    def reports(self) -> list[SourceReport]:
        """What became of the records, per source."""
        return [source.report for source in self.sources]


def measure(
    specs: Mapping[str, SourceSpec],
    encoder: Encoder,
    progress: Progress | None = None,
    *,
    pairs: bool = False,
    names: Collection[str] | None = None,
) -> Corpus:
    """Read every record once and take its size, applying the overflow and error policies.

    Args:
        specs: the sources by name.
        encoder: holds the processor and the policies.
        progress: called with the records done and their number, over all sources.
        pairs: a sample is a record with its chosen answer and with its rejected one.
        names: only these sources; all when None.

    Raises:
        DataError: for the first bad record when ``on_error`` is raise, and for a source of which
            no record is left.
    """
    opened = open_sources(specs)
    readers = {name: one for name, one in opened.items() if names is None or name in names}
    counts = {name: min(len(one), specs[name].limit or len(one)) for name, one in readers.items()}
    total, done = sum(counts.values()), 0
    sources: list[Source] = []
    skipped: list[Skipped] = []
    for name, reader in readers.items():
        results: list[_Size] = []
        for chunk in _sizes(_SizeChunks(reader, encoder, counts[name], pairs)):
            results.extend(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, total)
        sources.append(_source(name, reader, results))
        skipped.extend(size.skipped for size in results if size.skipped is not None)
    return Corpus(sources, skipped)


def open_sources(specs: Mapping[str, SourceSpec]) -> dict[str, Reader]:
    """Open the readers of all sources, blended where they say so.

    Raises:
        DataError: a file cannot be indexed, none of its records is of the categories asked for, or
            a blend names an unknown source.
    """
    plain = {name: _open(name, spec) for name, spec in specs.items()}
    return {
        name: plain[name] if s.blend is None else blend(s.blend, plain[name], plain)
        for name, s in specs.items()
    }


def _open(name: str, spec: SourceSpec) -> Reader:
    reader = open_reader(spec.path, spec.reader, spec.images, spec.answers)
    if spec.categories is None:
        return reader
    try:
        return OfCategories(reader, spec.categories)
    except DataError as error:
        raise DataError(f"source '{name}': {error}") from None


@dataclass(frozen=True)
class _Size:
    tokens: int = 0
    tiles: int = 0
    images: int = 0
    trimmed: bool = False
    skipped: Skipped | None = None


class _SizeChunks(Dataset[list[_Size]]):
    """Sizes of a source, ``CHUNK`` records an item."""

    def __init__(self, reader: Reader, encoder: Encoder, count: int, pairs: bool) -> None:
        self.reader, self.encoder, self.count = reader, encoder, count
        self.pairs = pairs

    def __len__(self) -> int:
        return -(-self.count // CHUNK)

    def __getitem__(self, index: int) -> list[_Size]:
        return [
            self._size(record)
            for record in range(index * CHUNK, min((index + 1) * CHUNK, self.count))
        ]

    def _size(self, index: int) -> _Size:
        try:
            record = self.reader[index]
            size = pair_size(self.encoder, record) if self.pairs else self.encoder.size(record)
        except DataError as error:
            return _Size(skipped=describe_error(error, self.reader.where(index)))
        if size is None:
            return _Size()
        return _Size(size.tokens, size.tiles, size.images, size.trimmed > 0)


def describe_error(error: DataError, where: str) -> Skipped:
    """What quarantine.jsonl says of a bad sample."""
    image = error.image if isinstance(error, RecordImageError) else None
    return Skipped(where, image, str(error))


def _sizes(chunks: _SizeChunks) -> Iterator[list[_Size]]:
    spec = chunks.encoder.spec
    # A small source is read before a worker has started.
    workers = spec.workers if len(chunks) > 8 else 0
    for chunk in read_ahead(chunks, range(len(chunks)), workers):
        for size in chunk:
            if size.skipped is not None and spec.on_error == "raise":
                raise DataError(
                    f"{size.skipped.reason} (data.on_error: skip would leave this sample out)"
                )
        yield chunk


def _source(name: str, reader: Reader, results: Sequence[_Size]) -> Source:
    table = np.array([(size.tokens, size.tiles) for size in results], dtype=np.int64).reshape(-1, 2)
    kept = np.flatnonzero(table[:, 0])
    skipped = sum(size.skipped is not None for size in results)
    dropped = len(results) - len(kept) - skipped
    if not len(kept):
        reason = next((size.skipped.reason for size in results if size.skipped), "all are too long")
        raise DataError(
            f"source '{name}': none of its {len(results)} records can be used "
            f"({skipped} bad, {dropped} too long); the first: {reason}"
        )
    report = SourceReport(
        name=name,
        records=len(results),
        kept=len(kept),
        trimmed=sum(size.trimmed for size in results),
        dropped=dropped,
        skipped=skipped,
        tokens=int(table[:, 0].sum()),
        tiles=int(table[:, 1].sum()),
        images=sum(size.images for size in results),
    )
    return Source(name, reader, kept, table[kept], report)
