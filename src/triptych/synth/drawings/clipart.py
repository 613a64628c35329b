"""Clip art as drawings: OpenClipart (Debian package `openclipart-svg`) and Tux Paint's stamps.

OpenClipart's titles are what people wrote: some are in another language, some belong to another
picture. A title is used where all its words are English, its noun is confirmed by the file name or
a keyword, and the noun has a meaning that fits the folder (an animal under ``animals``).
"""

import re
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from triptych.synth.album import Rejected
from triptych.synth.drawings.drawing import Drawing
from triptych.synth.drawings.kinds import FOLDERS, KINDS, THING, concept_of, fitting_sense, kind_of
from triptych.synth.packages import Package
from triptych.synth.words.wordnet import WordNet

CLIPART = Path("usr/share/openclipart/svg")
STAMPS = Path("usr/share/tuxpaint/stamps")
PER_CONCEPT = 5
"""Drawings of one concept that are used: cards alone would be hundreds."""
THEMES = (
    "computer/icons",
    "computer/buttons",
    "computer/folders",
    "decorations",
    "logos",
    "people/smilies",
    "people/stickmen",
    "recreation/games/cards",
    "recreation/religion",
    "shapes",
    "signs_and_symbols",
    "special",
    "unsorted",
    "symbols",
)
"""Folders of icon themes, cards, gradients and other things that are no thing."""
VAGUE = re.compile(
    "button|clip|clipart|drawing|face|group|head|icon|illustration|image|item|part|person|picture|"
    "piece|set|shape|silhouette|sign|sketch|state|symbol|thing|title"
)
"""Nouns that say too little."""
PUBLIC = re.compile(r"publicdomain", re.IGNORECASE)
WORD = re.compile(r"[a-z]+")
NOISE = re.compile(r"\(.*?\)|^clipart by .*? - |[_\-,.#!&]|\d+", re.IGNORECASE)
LONGEST = 4
"""Words of a title."""
ARTICLES = frozenset({"a", "an", "the", "some"})


class _Metadata(HTMLParser):
    """Reads title, keywords and licence of an SVG; forgives what an XML parser would refuse."""

    def __init__(self) -> None:
        super().__init__()
        self.title = ""
        self.keywords: list[str] = []
        self.license = ""
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "cc:license" and not self.license:
            self.license = dict(attrs).get("rdf:resource") or ""
        self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        text = " ".join(data.split())
        if not text or not self._open:
            return
        if self._open[-1] == "dc:title" and not self.title and "cc:agent" not in self._open:
            self.title = text
        elif self._open[-1] == "rdf:li" and "dc:subject" in self._open:
            self.keywords.append(text)


def draw_clipart(
    folder: Path, package: Package, wordnet: WordNet, rejected: list[Rejected]
) -> Iterator[Drawing]:
    """The drawings of OpenClipart that show a thing, by path.

    Args:
        folder: of the unpacked package.
        package: what it is.
        wordnet: the nouns.
        rejected: receives every file that is left out, with the reason.
    """
    root = folder / CLIPART
    taken: Counter[str] = Counter()
    for path in sorted(root.rglob("*.svg")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink() or name.startswith(THEMES):
            continue
        found = _read_clipart(path, name, package, wordnet)
        if isinstance(found, str):
            rejected.append(Rejected(f"{package.name}: {name}", found))
        elif taken[found.concept.key] < PER_CONCEPT:
            taken[found.concept.key] += 1
            yield found


def draw_stamps(
    folder: Path, package: Package, wordnet: WordNet, rejected: list[Rejected]
) -> Iterator[Drawing]:
    """Tux Paint's stamps whose English caption names a thing, by path; see ``draw_clipart``."""
    root = folder / STAMPS
    taken: Counter[str] = Counter()
    for path in sorted([*root.rglob("*.svg"), *root.rglob("*.png")]):
        name = path.relative_to(root).as_posix()
        double = path.suffix == ".png" and path.with_suffix(".svg").exists()
        if path.is_symlink() or name.startswith(THEMES) or double:
            continue
        caption = path.with_suffix(".txt")
        if not caption.exists():
            rejected.append(Rejected(f"{package.name}: {name}", "it has no caption"))
            continue
        # Line 1 is English; the translations follow.
        text = caption.read_text(encoding="utf-8", errors="replace").split("\n")[0]
        title = re.sub(r"^(an?|the|some)\s+|[.!]+$", "", text.strip().lower())
        found = _name(title, name, [title], package, wordnet)
        if isinstance(found, str):
            rejected.append(Rejected(f"{package.name}: {name}", found))
        elif taken[found.concept.key] < PER_CONCEPT:
            taken[found.concept.key] += 1
            yield _placed(found, path, STAMPS)


def _read_clipart(path: Path, name: str, package: Package, wordnet: WordNet) -> Drawing | str:
    """The drawing of a file, or why it is left out."""
    text = path.read_bytes().decode("utf-8", errors="replace")
    start, end = text.find("<metadata"), text.find("</metadata>")
    if start < 0 or end < 0:
        return "it has no metadata"
    metadata = _Metadata()
    metadata.feed(text[start:end])
    if not PUBLIC.search(metadata.license):
        return f"its licence is not the public domain but {metadata.license or 'not stated'}"
    if not metadata.title or not metadata.title.isascii():
        return f"no usable title: {metadata.title!r}"
    title = " ".join(WORD.findall(NOISE.sub(" ", metadata.title).lower()))
    found = _name(title, name, [path.stem, *metadata.keywords], package, wordnet)
    return found if isinstance(found, str) else _placed(found, path, CLIPART)


def _name(
    title: str, name: str, evidence: list[str], package: Package, wordnet: WordNet
) -> Drawing | str:
    """A drawing without art from what is written about it, or why the title is of no use."""
    words = [word for word in WORD.findall(title) if len(word) > 1 and word not in ARTICLES]
    if not words or len(words) > LONGEST:
        return f"no usable title: {title!r}"
    if not all(wordnet.is_word(word) for word in words):
        return f"the title {title!r} is not all English"
    noun = wordnet.head(" ".join(words))
    if noun is None or VAGUE.fullmatch(noun):
        return f"the title {title!r} names no thing"
    last = noun.split()[-1]
    known = {word for text in evidence for word in WORD.findall(text.lower())}
    if not any(word == last or wordnet.singular(word) == last for word in known):
        return f"neither file name nor keywords confirm the title {title!r}"
    kind = kind_of(name, FOLDERS)
    sense = fitting_sense(noun, KINDS[kind].anchors if kind else THING, wordnet)
    # Where the folder says nothing, only the most frequent meaning is believed.
    if sense is None or (kind is None and sense != wordnet.senses(noun)[0]):
        return f"the title {title!r} names no {kind or 'thing'}"
    return Drawing(
        name=noun,
        concept=concept_of(noun, kind, wordnet),
        kind=kind,
        group=kind or name.rpartition("/")[0],
        style=package.name,
        file=name,
        source=package.source,
        license=package.license,
        art="",
        loose=True,
    )


def _placed(drawing: Drawing, path: Path, root: Path) -> Drawing:
    return Drawing(**{**vars(drawing), "art": path, "file": f"{root.as_posix()}/{drawing.file}"})
