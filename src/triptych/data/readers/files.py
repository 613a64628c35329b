"""Opening local and remote files; remote ones through fsspec."""

import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from triptych.data.readers.base import Location
from triptych.errors import DataError

RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def is_remote(location: Location) -> bool:
    """Whether fsspec must open it."""
    return isinstance(location, str) and "://" in location


def open_binary(location: Location) -> BinaryIO:
    """Open a file for reading.

    Raises:
        DataError: when it cannot be opened.
    """
    try:
        if not is_remote(location):
            return Path(location).open("rb")
        import fsspec

        return cast(BinaryIO, fsspec.open(str(location), "rb").open())
    except ImportError as error:
        raise DataError(f"{location}: cannot be opened: {error}") from None
    except OSError as error:
        raise DataError(f"{location}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise DataError(f"{location}: cannot be opened: {error}") from None


class ReadAt:
    """Reads stretches of a file, opened when first needed, by any number of processes."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self._file: BinaryIO | None = None

    def __getstate__(self) -> dict[str, object]:
        # An open file cannot be sent to a worker; it opens its own.
        return {"location": self.location, "_file": None}

    def __call__(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop).

        Raises:
            DataError: when they cannot be read.
        """
        if self._file is None:
            self._file = open_binary(self.location)
        try:
            if is_remote(self.location):
                self._file.seek(start)
                return self._file.read(stop - start)
            # Forked workers share the place in an inherited file; pread needs none.
            return os.pread(self._file.fileno(), stop - start, start)
        except OSError as error:
            raise DataError(f"{self.location}: cannot be read: {error.strerror or error}") from None


def expand(location: Location) -> list[Location]:
    """The files that a name with ``{000..012}`` or ``*`` stands for, in order.

    Raises:
        DataError: when there is none.
    """
    text = str(location)
    names = list(_ranges(text))
    if "*" in text:
        if is_remote(location):
            import fsspec

            system = fsspec.filesystem(text.split("://", 1)[0])
            names = [
                system.unstrip_protocol(found) for name in names for found in system.glob(name)
            ]
        else:
            names = [found for name in names for found in glob.glob(name)]  # noqa: PTH207
    if not names:
        raise DataError(f"{location}: no such files")
    return [name if is_remote(name) else Path(name) for name in sorted(names)]


def _ranges(text: str) -> Iterator[str]:
    match = RANGE.search(text)
    if match is None:
        yield text
        return
    first, last = match.groups()
    for number in range(int(first), int(last) + 1):
        name = text[: match.start()] + str(number).zfill(len(first)) + text[match.end() :]
        yield from _ranges(name)
