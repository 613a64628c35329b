"""Emoji as drawings: icon sets of Iconify (npm) with the labels and groups of emojibase (npm)."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triptych.errors import DataError
from triptych.synth.drawings.drawing import Drawing
from triptych.synth.drawings.kinds import SUBGROUPS, concept_of, kind_of
from triptych.synth.packages import Package
from triptych.synth.words.wordnet import WordNet

LEFT_OUT = frozenset({"component", "symbols", "flags"})
"""Groups of emoji that show no thing."""
GENDERED = re.compile(r"^1f46[89]-200d|200d-264[02]|200d-27a1")
"""Code points of emoji that repeat another one for a man or a woman, or turned around."""


@dataclass(frozen=True)
class Emoji:
    """One emoji of emojibase.

    Attributes:
        code: its code points in lower case, without the variation selector.
        label: its English name.
        subgroup: such as 'food-fruit'.
        tags: words that fit it.
    """

    code: str
    label: str
    subgroup: str
    tags: tuple[str, ...]


def read_emoji(folder: Path) -> list[Emoji]:
    """The emoji of an ``emojibase-data`` folder that show a thing, in their usual order.

    Raises:
        DataError: a file is missing or of another layout.
    """
    entries = load_json(folder / "en" / "data.json")
    names = load_json(folder / "meta" / "groups.json")
    found = []
    try:
        for entry in sorted(entries, key=lambda entry: int(entry.get("order", 0))):
            code = plain_code(entry["hexcode"])
            # Regional indicators have no group.
            if "group" not in entry or names["groups"][str(entry["group"])] in LEFT_OUT:
                continue
            # Labels with a colon list the members of a family, or a colour of hair.
            if not GENDERED.search(code) and ":" not in entry["label"]:
                subgroup = names["subgroups"][str(entry["subgroup"])]
                tags = tuple(entry.get("tags", ()))
                found.append(Emoji(code, entry["label"], subgroup, tags))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{folder / 'en' / 'data.json'}: not emojibase's layout: {error!r}"
        ) from None
    return found


def draw_emoji(
    folder: Path, package: Package, emoji: list[Emoji], wordnet: WordNet
) -> Iterator[Drawing]:
    """The drawings that an Iconify set has of ``emoji``, in their order.

    Raises:
        DataError: a file is missing or of another layout.
    """
    icons = load_json(folder / "icons.json")
    names = {plain_code(code): name for code, name in load_json(folder / "chars.json").items()}
    for one in emoji:
        name = names.get(one.code)
        if name is None:
            continue
        kind = kind_of(one.subgroup, SUBGROUPS)
        yield Drawing(
            name=one.label.replace("\u2019", "'"),
            concept=concept_of(_thing(one), kind, wordnet),
            kind=kind,
            group=one.subgroup,
            style=package.name,
            file=f"icons.json#{name}",
            source=package.source,
            license=package.license,
            art=_svg(icons, name, folder),
            tags=one.tags,
        )


def plain_code(code: str) -> str:
    """Code points in lower case without the variation selector, which sets write or leave out."""
    return code.lower().replace("-fe0f", "")


def load_json(path: Path) -> Any:  # noqa: ANN401
    """Read a JSON file of a package.

    Raises:
        DataError: it is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file in the package") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error})") from None


def _thing(emoji: Emoji) -> str:
    """'dog' for 'dog face': the drawing of a head stands for the animal."""
    if emoji.subgroup.startswith("animal"):
        return emoji.label.removesuffix(" face")
    return emoji.label


def _svg(icons: Mapping[str, Any], name: str, folder: Path) -> str:
    """The whole SVG of an icon; an alias is another icon, perhaps turned around."""
    try:
        alias = icons.get("aliases", {}).get(name, {})
        icon = icons["icons"][alias.get("parent", name)]
        body = icon["body"]
        width = icon.get("width", icons.get("width", 16))
        height = icon.get("height", icons.get("height", 16))
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder / 'icons.json'}: icon {name}: {error!r}") from None
    if alias.get("hFlip"):
        body = f'<g transform="translate({width} 0) scale(-1 1)">{body}</g>'
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}">{body}</svg>'
    )
