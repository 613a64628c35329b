"""Naming images inside a text: tag families, as Sparkles and DeepSpeed-VisualChat use them."""

import re
from collections.abc import Mapping
from typing import Literal, TypeAlias

from triptych.errors import DataError

Family: TypeAlias = Literal["letters", "capitals", "ordinals", "numbers"]

FAMILIES: tuple[Family, ...] = ("letters", "capitals", "ordinals", "numbers")
ORDINALS = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
    "eleventh", "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth",
)  # fmt: skip
# A word that begins a text, or stands behind the end of a sentence.
BEGINNING = re.compile(r"(?:^|(?<=[.?!]\s))[a-z]")


def tag(number: int, family: Family) -> str:
    """The name of image ``number``, from 0.

    Raises:
        DataError: the family has no name for so many images.
    """
    limit = {"letters": 26, "capitals": 26, "ordinals": len(ORDINALS)}.get(family)
    if limit is not None and number >= limit:
        raise DataError(f"tag family '{family}' names {limit} images, found image {number + 1}")
    if family == "ordinals":
        return f"the {ORDINALS[number]} image"
    if family == "numbers":
        return f"image {number + 1}"
    return f"image {chr(ord('a' if family == 'letters' else 'A') + number)}"


def retag(text: str, names: Mapping[str, int], family: Family) -> str:
    """Replace every name of an image by its tag; sentences that a tag begins are capitalised.

    A longer name is looked for before a shorter one that it begins with.

    Args:
        text: the text.
        names: name in the text -> number of the image, from 0.
        family: how images are to be named.
    """
    if not names:
        return text
    longest_first = sorted(names, key=len, reverse=True)
    pattern = re.compile(f"(?:{'|'.join(map(re.escape, longest_first))})(?!\\w)")
    starts: set[int] = set()
    pieces: list[str] = []
    length = last = 0
    for match in pattern.finditer(text):
        pieces += [text[last : match.start()], tag(names[match.group()], family)]
        length += len(pieces[-2])
        starts.add(length)
        length += len(pieces[-1])
        last = match.end()
    whole = "".join([*pieces, text[last:]])
    return BEGINNING.sub(
        lambda found: found.group().upper() if found.start() in starts else found.group(), whole
    )
