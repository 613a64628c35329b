"""The HTML manuals: their packages, their pages, and which pages belong together."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from triptych.errors import DataError
from triptych.synth.files import digest_of
from triptych.synth.manuals.page import Body
from triptych.synth.packages import Package

IMAGE = re.compile(r"<img\b[^>]*?\bsrc\s*=\s*[\"']([^\"'?#]+)", re.IGNORECASE)
FORMATS = frozenset({".png", ".jpg", ".jpeg", ".gif", ".webp"})
MOST_PAGES = 5
"""A picture on more pages than this is a logo or a button."""


WHOLE = Body()


@dataclass(frozen=True)
class Manual:
    """A manual in a package.

    Attributes:
        folder: of its pages in the package.
        body: where the text of a page is.
        without: pages that show what is not under the package's licence.
    """

    package: Package
    folder: str
    body: Body = WHOLE
    without: frozenset[str] = frozenset()


SKLEARN = Manual(
    Package(
        "deb",
        "python-sklearn-doc",
        "1.2.1+dfsg-1",
        "4e244556326064e87e7563e3e544c2288d44b5719db2d7b3a85c9a84ae93488d",
        "BSD-3-Clause",
        50397484,
    ),
    "usr/share/doc/python-sklearn-doc/html",
    Body("role", "main"),
    # Logos and photographs of companies that use it.
    frozenset({"about.html", "testimonials/testimonials.html"}),
)
SKIMAGE = Manual(
    Package(
        "deb",
        "python-skimage-doc",
        "0.19.3-8",
        "2c87d8f7d4504b29fe80283a24a153fb4175b0e4964bd90a2a0152b36bb6b468",
        "BSD-3-Clause",
        45508332,
    ),
    "usr/share/doc/python-skimage-doc/html",
    Body("role", "main"),
)
GIMP = Manual(
    Package(
        "deb",
        "gimp-help-en",
        "2.10.34-2",
        "a2deec76763aaf2fcdd197bac0736cdcb0770ba993d48d233329e1c92b0bfe36",
        "GFDL-1.2-or-later",
        49612664,
        copyleft=True,
    ),
    "usr/share/gimp/2.0/help/en",
)
KICAD = Manual(
    Package(
        "deb",
        "kicad-doc-en",
        "6.0.11+dfsg-1",
        "20dbe9acb2e6f38d49bd742d4b71bee2dc3e7dbd8c54a7a45ad05a742e5ae834",
        # As the manuals themselves say; the package's own file says GPL-2+ or CC-BY-SA-3.0.
        "GPL-3.0-or-later OR CC-BY-3.0",
        14972756,
        copyleft=True,
    ),
    "usr/share/doc/kicad/help/en",
    Body("id", "content"),
)
HANDBOOK = Manual(
    Package(
        "deb",
        "debian-handbook",
        "11.20220922",
        "3d5dbeac1f1afc9c094eab9d0f701f6ecff99c4927d5a4794cf6c85678134faa",
        "GPL-2.0-or-later OR CC-BY-SA-3.0",
        34758056,
        copyleft=True,
    ),
    "usr/share/doc/debian-handbook/html/en-US",
)
MANUALS = (SKLEARN, SKIMAGE, GIMP, KICAD, HANDBOOK)


@dataclass(frozen=True)
class Library:
    """The pages of a manual.

    Attributes:
        pages: those with two pictures or more, by path below the manual's folder.
        family: of a page, the first of the pages that share pictures with it, however indirectly.
        frequent: pictures on too many pages to be of any one of them, by path.
    """

    root: Path
    pages: Sequence[str]
    family: Mapping[str, str]
    frequent: frozenset[Path]


@cache
def open_library(root: Path, without: frozenset[str]) -> Library:
    """Find the pages of a manual and what they share, once per process.

    Args:
        root: folder of the pages.
        without: paths of pages that are not used.

    Raises:
        DataError: there is no page.
    """
    files = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*.html"))}
    shown = {
        page: list(_pictures(file, root)) for page, file in files.items() if page not in without
    }
    if not shown:
        raise DataError(f"{root}: no HTML page in it; this is another package")
    prints = {path: _print(path) for paths in shown.values() for path in paths}
    counts = Counter(found for paths in shown.values() for found in {prints[one] for one in paths})
    frequent = frozenset(path for path, found in prints.items() if counts[found] > MOST_PAGES)
    shared: dict[str, list[str]] = defaultdict(list)
    pages = []
    for page, paths in shown.items():
        own = [path for path in paths if path not in frequent]
        pages += [page] if len(own) > 1 else []
        for path in own:
            shared[prints[path]].append(page)
    return Library(root, pages, _families(shown, shared.values()), frequent)


def find_picture(source: str, page: str, root: Path) -> Path | None:
    """The file of a picture; None for addresses elsewhere and for what is no pixel picture.

    Args:
        source: the address as written.
        page: path of the page below ``root``.
        root: folder of the manual.
    """
    if ":" in source or source.startswith("/") or Path(source).suffix.lower() not in FORMATS:
        return None
    parts: list[str] = []
    for part in (PurePosixPath(page).parent / unquote(source)).parts:
        if part == ".." and not parts:
            return None
        parts = parts[:-1] if part == ".." else [*parts, part]
    return root.joinpath(*parts)


def _pictures(path: Path, root: Path) -> Iterator[Path]:
    """Every picture that a page mentions, whether it is there or not."""
    page = path.relative_to(root).as_posix()
    for source in IMAGE.findall(path.read_text(encoding="utf-8", errors="replace")):
        found = find_picture(source, page, root)
        if found is not None:
            yield found


def _print(path: Path) -> str:
    """What is equal for equal files; of a missing one its path."""
    return digest_of(path) if path.is_file() else str(path)


def _families(pages: Iterable[str], together: Iterable[Sequence[str]]) -> dict[str, str]:
    """The first page of those that are joined with each page, step by step (union-find)."""
    above = {page: page for page in pages}

    def first(page: str) -> str:
        while above[page] != page:
            above[page] = above[above[page]]
            page = above[page]
        return page

    for joined in together:
        for page in joined[1:]:
            one, other = sorted((first(joined[0]), first(page)))
            above[other] = one
    return {page: first(page) for page in above}
