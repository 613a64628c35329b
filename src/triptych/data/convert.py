"""Writing records in another format: JSON lines, Parquet, or WebDataset shards.

Parquet files and shards hold the encoded images themselves, byte for byte; JSON lines name them,
and images that had no file of their own get one.
"""

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image, UnidentifiedImageError

from triptych.data.readers.base import Reader
from triptych.data.record import ImagePart, Record
from triptych.errors import DataError
from triptych.images.decode import read_encoded

Progress: TypeAlias = Callable[[int, int], None]

ROWS_OF_A_GROUP = 64
SUFFIXES = {"JPEG": "jpg", "TIFF": "tif"}


@dataclass(frozen=True)
class Converted:
    """What was written.

    Attributes:
        files: the files of records, in order.
        records: number of records.
        images: number of images.
        without_metadata: records whose metadata the format has no place for.
    """

    files: tuple[Path, ...]
    records: int
    images: int
    without_metadata: int = 0


def convert(
    reader: Reader, out: Path, *, shard: int = 1000, progress: Progress | None = None
) -> Converted:
    """Write every record of ``reader``.

    Args:
        reader: the records.
        out: ``*.jsonl``, ``*.parquet``, or ``*.tar`` (written as ``*-000000.tar`` and so on).
        shard: records of a shard.
        progress: called with the records done and their number.

    Raises:
        DataError: a record or an image cannot be read, or the suffix is none of these; nothing is
            left at ``out`` then.
    """
    writers = {".jsonl": _write_jsonl, ".parquet": _write_parquet}
    out.parent.mkdir(parents=True, exist_ok=True)

    def records(start: int, stop: int) -> Iterator[Record]:
        for index in range(start, stop):
            yield reader[index]
            if progress is not None:
                progress(index + 1, len(reader))

    if out.suffix == ".tar":
        return _write_shards(records, len(reader), out, shard)
    if out.suffix not in writers:
        raise DataError(f"{out}: the name must end with .jsonl, .parquet or .tar")
    return writers[out.suffix](records(0, len(reader)), out)


def _write_jsonl(records: Iterator[Record], out: Path) -> Converted:
    count = images = 0
    folder = out.with_name(f"{out.stem}-images")
    with _whole(out) as temporary, temporary.open("w", encoding="utf-8") as file:
        for record in records:
            plain = record.to_plain()
            for number, (place, part) in enumerate(_places(plain, record)):
                place["image"] = _name(part, folder, f"{count:08d}-{number}", out.parent)
                images += 1
            file.write(json.dumps(plain, ensure_ascii=False) + "\n")
            count += 1
    return Converted((out,), count, images)


def _write_shards(
    records: Callable[[int, int], Iterator[Record]], total: int, out: Path, size: int
) -> Converted:
    files: list[Path] = []
    images = 0
    for start in range(0, total, size):
        file = out.with_name(f"{out.stem}-{start // size:06d}.tar")
        with _whole(file) as temporary, tarfile.open(temporary, "w") as tar:
            for index, record in enumerate(records(start, min(start + size, total)), start=start):
                plain, parts = record.to_plain(), {}
                for number, (place, part) in enumerate(_places(plain, record)):
                    data = _bytes(part, record.where)
                    place["image"] = f"{number}.{_suffix(data, record.where)}"
                    parts[place["image"]] = data
                images += len(parts)
                text = json.dumps(plain, ensure_ascii=False).encode()
                for name, data in {"json": text, **parts}.items():
                    info = tarfile.TarInfo(f"{index:08d}.{name}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        files.append(file)
    return Converted(tuple(files), total, images)


def _write_parquet(records: Iterator[Record], out: Path) -> Converted:
    try:
        pa, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise DataError(f"{out}: pyarrow is needed to write this; install triptych[data]") from None
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    part = pa.struct([("type", pa.string()), ("text", pa.string()), ("image", image)])
    content = ("content", pa.list_(part))
    spoken = [("role", pa.string()), content, ("loss", pa.bool_()), ("category", pa.string())]
    texts = [(key, pa.string()) for key in ("id", "source", "license", "chosen", "rejected")]
    schema = pa.schema([("messages", pa.list_(pa.struct(spoken))), *texts])
    count = images = metadata = 0
    rows: list[dict[str, object]] = []
    with _whole(out) as temporary, parquet.ParquetWriter(str(temporary), schema) as writer:

        def flush() -> None:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            rows.clear()

        for record in records:
            rows.append(_row(record))
            count, images = count + 1, images + len(record.images)
            metadata += record.metadata is not None
            if len(rows) == ROWS_OF_A_GROUP:
                flush()
        flush()
    return Converted((out,), count, images, metadata)


def _row(record: Record) -> dict[str, object]:
    plain = record.to_plain()
    plain.pop("metadata", None)
    for place, part in _places(plain, record):
        place["image"] = {"bytes": _bytes(part, record.where), "path": None}
    for message in _messages(plain):
        if isinstance(message["content"], str):
            message["content"] = [{"type": "text", "text": message["content"]}]
    return plain


def _messages(plain: Mapping[str, object]) -> list[dict[str, Any]]:
    messages = plain["messages"]
    assert isinstance(messages, list)
    return messages


def _places(
    plain: Mapping[str, object], record: Record
) -> Iterator[tuple[dict[str, Any], ImagePart]]:
    """The dict of every image in a plain record, with its part, in order."""
    parts = [
        part
        for message in _messages(plain)
        if not isinstance(message["content"], str)
        for part in message["content"]
        if part["type"] == "image"
    ]
    yield from zip(parts, record.images, strict=True)


def _name(part: ImagePart, folder: Path, stem: str, root: Path) -> str:
    """How a JSON line names an image: its path from the file's folder, or a data URI."""
    location = part.location
    if isinstance(location, bytes):
        folder.mkdir(exist_ok=True)
        path = folder / f"{stem}.{_suffix(location, stem)}"
        path.write_bytes(location)
        return path.relative_to(root).as_posix()
    text = str(location)
    return text if text.startswith("data:") else os.path.relpath(text, root)


def _bytes(part: ImagePart, where: str) -> bytes:
    try:
        return read_encoded(part.location)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def _suffix(data: bytes, where: str) -> str:
    try:
        with Image.open(io.BytesIO(data)) as image:
            kind = image.format or ""
    except (UnidentifiedImageError, OSError):
        raise DataError(f"{where}: holds an image that cannot be read") from None
    return SUFFIXES.get(kind, kind.lower())


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A temporary name that becomes ``out`` when everything was written."""
    temporary = out.with_name(f".{out.name}.part")
    try:
        yield temporary
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
