"""How builders write: a folder of records and images that appears whole or not at all."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from triptych.data.schema import Record
from triptych.errors import DataError

MANIFEST = "build.json"


@dataclass(frozen=True)
class Manifest:
    """What a built folder says about itself.

    Attributes:
        plan: the builder's arguments.
        files: number of records of each file.
        licenses: number of records by licence and source.
        quarantined: what was left out, with reasons in quarantine.jsonl.
        size: of all files, in bytes.
    """

    plan: dict[str, object]
    files: dict[str, int]
    licenses: dict[str, dict[str, int]] = field(default_factory=dict)
    quarantined: int = 0
    size: int = 0


def read_manifest(folder: Path) -> Manifest | None:
    """Read what ``folder`` was built from; None when no builder has written it."""
    try:
        fields = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return Manifest(**fields)
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, KeyError, TypeError):
        return None


def digest_of(file: Path) -> str:
    """SHA-256 of a file in hexadecimal digits."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def claim(folder: Path, *, replace: bool) -> None:
    """Make sure that ``folder`` may be written or replaced.

    Raises:
        DataError: ``folder`` holds something: not a builder's work, or not to be replaced.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if read_manifest(folder) is None:
            raise DataError(f"{folder} exists and was not written by a builder; choose another")
        if not replace:
            raise DataError(
                f"{folder} was built with other options (see {folder / MANIFEST}); "
                "choose another folder, or replace it with --replace"
            )


@contextmanager
def new_folder(
    folder: Path, plan: Mapping[str, object], *, replace: bool
) -> Iterator[tuple[Path, dict[str, int]]]:
    """Fill a folder beside ``folder`` and rename it at the end; nothing is left after a failure.

    Yields:
        The folder to write into, and a table for the number of records of each file.

    Raises:
        DataError: ``folder`` holds something: not a builder's work, or not to be replaced.
    """
    claim(folder, replace=replace)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    files: dict[str, int] = {}
    try:
        yield partial, files
        manifest = json.dumps({"plan": dict(plan), "files": files}, indent=2) + "\n"
        (partial / MANIFEST).write_text(manifest, encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_records(path: Path, records: Iterable[Record], prefix: str) -> int:
    """Write records as JSON lines with the ids ``prefix/<file>/<number>``; returns their number."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for count, record in enumerate(records, 1):
            named = replace(record, id=f"{prefix}/{path.stem}/{count - 1:06d}")
            file.write(json.dumps(named.to_json(), ensure_ascii=False) + "\n")
    return count
