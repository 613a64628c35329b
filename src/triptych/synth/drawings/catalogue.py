"""All drawings of the packages in use, each on its side of the split.

Held out are designs (T1: another drawing of the same thing is trained, so the thing can be named)
and concepts (T2: nothing that shows it is trained, whoever drew it, so that it can be told from
other things but not named). A style that is given for testing only is a third test.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Literal, TypeAlias

from triptych.synth.album import Rejected
from triptych.synth.drawings.clipart import draw_clipart, draw_stamps
from triptych.synth.drawings.drawing import Drawing
from triptych.synth.drawings.iconify import draw_emoji, read_emoji
from triptych.synth.packages import Package
from triptych.synth.split import held_out
from triptych.synth.words.wordnet import WordNet

Role: TypeAlias = Literal["train", "design", "concept", "style"]

ROLES: tuple[Role, ...] = ("train", "design", "concept", "style")

WORDNET = Package(
    "deb",
    "wordnet-base",
    "1:3.0-37",
    "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
    "WordNet-3.0",
    6467132,
)
EMOJIBASE = Package(
    "npm",
    "emojibase-data",
    "17.0.0",
    "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    "MIT",
    6711091,
)
NOTO = Package(
    "npm",
    "@iconify-json/noto",
    "1.2.9",
    "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
    "Apache-2.0",
    3102958,
)
FLUENT = Package(
    "npm",
    "@iconify-json/fluent-emoji-flat",
    "1.2.6",
    "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
    "MIT",
    1172438,
)
OPENMOJI = Package(
    "npm",
    "@iconify-json/openmoji",
    "1.2.29",
    "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5",
    "CC-BY-SA-4.0",
    1264633,
    copyleft=True,
)
OPENCLIPART = Package(
    "deb",
    "openclipart-svg",
    "1:0.18+dfsg-19",
    "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
    "LicenseRef-public-domain",
    24919068,
)
STAMPS = Package(
    "deb",
    "tuxpaint-stamps-default",
    "2022.06.04-1",
    "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
    "GPL-2.0-or-later",
    160880444,
    copyleft=True,
)
CORE = (WORDNET, EMOJIBASE, NOTO, FLUENT, OPENCLIPART)
COPYLEFT = (OPENMOJI, STAMPS)
UNSEEN_STYLE = OPENMOJI.name
"""Drawings of this style are for testing only."""
COMMON = 6
"""A concept with more emoji than this, such as a face, is never held out: too much is like it."""

Folders: TypeAlias = tuple[tuple[str, Path], ...]


@dataclass
class Catalogue:
    """Drawings by role, in one order for all processes.

    Attributes:
        roles: the drawings of each role; drawings of one style, kind and group stand together.
        rejected: what was left out, by package.
        wordnet: the nouns.
    """

    roles: dict[Role, list[Drawing]]
    rejected: dict[str, list[Rejected]]
    wordnet: WordNet


@cache
def load_catalogue(folders: Folders, share: float) -> Catalogue:
    """Read the catalogue of unpacked packages, once per process.

    Args:
        folders: the folder of each package by its name.
        share: of the concepts, and of the designs of the others, that is held out.

    Raises:
        DataError: a file of a package is missing or of another layout.
    """
    by_name = dict(folders)
    wordnet = WordNet(by_name[WORDNET.name] / "usr/share/wordnet")
    emoji = read_emoji(by_name[EMOJIBASE.name] / "package")
    drawings: list[Drawing] = []
    for package in (NOTO, FLUENT, OPENMOJI):
        if package.name in by_name:
            drawings += draw_emoji(by_name[package.name] / "package", package, emoji, wordnet)
    rejected: dict[str, list[Rejected]] = {}
    for package, draw in ((OPENCLIPART, draw_clipart), (STAMPS, draw_stamps)):
        if package.name in by_name:
            lines = rejected.setdefault(package.name, [])
            drawings += draw(by_name[package.name], package, wordnet, lines)
    kept = _without_copies(drawings, rejected)
    return Catalogue(assign_roles(kept, share), rejected, wordnet)


def assign_roles(drawings: Sequence[Drawing], share: float) -> dict[Role, list[Drawing]]:
    """Put every drawing on its side of the split.

    A held-out design leaves another drawing of its name in training. A drawing in the unseen style
    is used where its name is trained in another style, or its concept is held out.
    """
    common = _common(drawings)
    roles: dict[Role, list[Drawing]] = {role: [] for role in ROLES}
    by_name: dict[tuple[str, str], list[Drawing]] = defaultdict(list)
    unseen = []
    for one in drawings:
        if one.concept.key not in common and held_out(one.concept.key, share):
            roles["concept"].append(one)
        elif one.style == UNSEEN_STYLE:
            unseen.append(one)
        else:
            by_name[one.concept.key, one.name].append(one)
    for same in by_name.values():
        out = [one for one in same if held_out(f"{one.style} {one.file}", share)]
        if len(out) == len(same):
            out = out[1:]
        roles["design"] += out
        roles["train"] += [one for one in same if one not in out]
    roles["style"] = [one for one in unseen if (one.concept.key, one.name) in by_name]
    return {role: sorted(found, key=_order) for role, found in roles.items()}


def rotate(
    drawings: Sequence[Drawing],
    far: float,
    value: Callable[[Drawing], str | None],
    fits: Callable[[str, Drawing], bool],
) -> Mapping[int, str]:
    """A wrong value for each drawing: the value of another drawing of its style, each used once.

    So a value is asked about as often where it is right as where it is wrong, and a question does
    not give its answer away.

    Args:
        drawings: of one role.
        far: how far away the other drawing is at least, as a share of the drawings of the style;
            0 for the next one, which is much like it.
        value: of a drawing, or None where it has none.
        fits: whether a value is right for a drawing.

    Returns:
        The wrong value by the index of the drawing; only where the value of both can be asked.
    """
    found: dict[int, str] = {}
    for _, numbered in groupby(enumerate(drawings), key=lambda pair: pair[1].style):
        having = [(n, known) for n, one in numbered if (known := value(one)) is not None]
        start = max(1, int(far * len(having)))
        turns = [
            having[step:] + having[:step] for step in range(start, min(len(having), start + 40))
        ]
        best: dict[int, str] = {}
        for turned in turns:
            wrong = {
                n: other
                for (n, _), (_, other) in zip(having, turned, strict=True)
                if not fits(other, drawings[n])
            }
            best = max(best, wrong, key=len)
            if len(best) == len(having):
                break
        found |= best
    return found


def _order(drawing: Drawing) -> tuple[str, ...]:
    one = drawing
    return (one.style, one.kind or "~", one.group, one.concept.key, one.name, one.file)


def _common(drawings: Sequence[Drawing]) -> frozenset[str]:
    """Concepts that many emoji show."""
    names = {(one.concept.key, one.name) for one in drawings if not one.loose}
    counts = Counter(key for key, _ in names)
    return frozenset(key for key, count in counts.items() if count > COMMON)


def _without_copies(
    drawings: Sequence[Drawing], rejected: dict[str, list[Rejected]]
) -> list[Drawing]:
    """The first of equal drawings, whatever they are called."""
    first: dict[bytes, Drawing] = {}
    for one in drawings:
        other = first.setdefault(one.content, one)
        if other is not one:
            reason = f"it is the same drawing as {other.file}"
            rejected.setdefault(one.style, []).append(Rejected(f"{one.style}: {one.file}", reason))
    return list(first.values())
