"""Files that are either whole or absent, however the process ends."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY = ".tmp-"


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder to write in; it becomes ``folder`` when the block ends well."""
    temporary = begin_folder(folder)
    yield temporary
    end_folder(folder)


def begin_folder(folder: Path) -> Path:
    """Make the empty temporary folder that ``end_folder`` turns into ``folder``."""
    temporary = unfinished(folder)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    return temporary


def end_folder(folder: Path) -> None:
    """Give the temporary folder its name, once all of it is on the disk."""
    temporary = unfinished(folder)
    for path in sorted(temporary.rglob("*")):
        sync(path)
    sync(temporary)
    remove_folder(folder)
    temporary.rename(folder)
    sync(folder.parent)


def unfinished(folder: Path) -> Path:
    """Where ``folder`` is while it is written."""
    return folder.with_name(TEMPORARY + folder.name)


def write_text(path: Path, text: str) -> None:
    """Replace the content of ``path`` at once."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Replace the content of ``path`` at once."""
    temporary = path.with_name(TEMPORARY + path.name)
    temporary.write_bytes(content)
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


def remove_folder(folder: Path) -> None:
    """Delete ``folder`` if it is there; a half-deleted one is left under a temporary name."""
    if folder.exists():
        temporary = folder.with_name(f"{TEMPORARY}old-{folder.name}")
        shutil.rmtree(temporary, ignore_errors=True)
        folder.rename(temporary)
        shutil.rmtree(temporary)


def remove_temporary(folder: Path) -> None:
    """Delete what interrupted writes left in ``folder``."""
    for path in folder.glob(TEMPORARY + "*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def sync(path: Path) -> None:
    """Force a file or a folder's list of names onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def keep_steps(path: Path, step: int) -> None:
    """Cut a file of JSON lines back to the lines whose ``step`` is at most ``step``.

    A last line that was cut off while it was written is dropped with the later ones.
    """
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.endswith("\n") or json.loads(line)["step"] > step:
            break
        kept.append(line)
    write_text(path, "".join(kept))
