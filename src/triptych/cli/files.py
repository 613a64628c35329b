"""Writing files so that nothing is ever half-written."""

from pathlib import Path


def append_line(path: Path, line: str) -> None:
    """Add a line to a text file, which is made when it does not exist.

    The whole file is written under a temporary name and renamed.
    """
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    if before and not before.endswith("\n"):
        before += "\n"
    partial = path.with_name(path.name + ".partial")
    partial.write_text(before + line + "\n", encoding="utf-8")
    partial.replace(path)
