"""Windows of a page: a few pictures in order, with the text around them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from triptych.synth.manuals.page import Part, Picture

LEAST, MOST = 2, 6
"""Pictures of a window."""


@dataclass(frozen=True)
class Limits:
    """How much text a window has.

    Attributes:
        between: most characters between two pictures of one window.
        around: most characters before its first and after its last picture.
        whole: most characters in all.
    """

    between: int = 1500
    around: int = 500
    whole: int = 4000


def windows(parts: Sequence[Part], limits: Limits) -> Iterator[list[Part]]:
    """Cut a page into windows; a picture or a paragraph is in one window at most.

    A window ends where it has its most pictures, where the text up to the next picture is long, or
    where the whole would be. Text is cut between paragraphs. What is left with one picture is left
    out.
    """
    places = [number for number, part in enumerate(parts) if isinstance(part, Picture)]
    used = 0
    for group in _groups(parts, places, limits):
        if len(group) < LEAST:
            continue
        before = [place + 1 for place in places if place < group[0]]
        after = [place for place in places if place > group[-1]]
        first = max([used, *before])
        last = after[0] if after else len(parts)
        opening = _nearest(parts[first : group[0]][::-1], limits.around)[::-1]
        ending = _nearest(parts[group[-1] + 1 : last], limits.around)
        used = group[-1] + 1 + len(ending)
        yield [*opening, *parts[group[0] : group[-1] + 1], *ending]


def _groups(parts: Sequence[Part], places: Sequence[int], limits: Limits) -> Iterator[list[int]]:
    group: list[int] = []
    for place in places:
        if group:
            gap = _length(parts[group[-1] : place])
            whole = _length(parts[group[0] : place])
            if len(group) == MOST or gap > limits.between or whole > limits.whole:
                yield group
                group = []
        group.append(place)
    if group:
        yield group


def _nearest(parts: Sequence[Part], most: int) -> list[Part]:
    """Paragraphs from the first one on, as far as they are no longer than ``most`` together."""
    found: list[Part] = []
    for part in parts:
        if _length([*found, part]) > most:
            break
        found.append(part)
    return found


def _length(parts: Sequence[Part]) -> int:
    return sum(len(part) for part in parts if isinstance(part, str))
