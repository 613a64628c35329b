"""Questions about the marks of a map, whose answers its labels give."""

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from triptych.synth.maps.chart import Region
from triptych.synth.question import Asked

APART = 12
"""Pixels by which one mark is to be further left or higher than another to be asked about."""
LARGER = 1.4
"""How many times as large the largest region is as the next one to be asked about."""


@dataclass(frozen=True)
class Marked:
    """A map with marks.

    Attributes:
        regions: mark n is on the n-th of these.
        colours: names by label.
        neighbours: pairs of labels, the smaller one first.
        what: what a region is called here: country, province, ...
    """

    regions: Sequence[Region]
    colours: Mapping[int, str]
    neighbours: frozenset[tuple[int, int]]
    what: str


def ask(marked: Marked, rng: random.Random, *, named: bool) -> Iterator[Asked]:
    """Questions about the marks.

    Args:
        marked: the map.
        rng: draws everything.
        named: ask for names and capitals, too: nobody can name what was never named before.
    """
    yield Asked("How many marks are on the map?", str(len(marked.regions)), "count")
    yield from _colours(marked, rng)
    yield from _sides(marked, rng)
    yield from _extremes(marked, rng)
    yield from _largest(marked)
    yield from _neighbours(marked, rng)
    if named:
        yield from _names(marked, rng)


def _colours(marked: Marked, rng: random.Random) -> Iterator[Asked]:
    shown = [marked.colours[one.label] for one in marked.regions]
    number = rng.randrange(len(shown))
    text = f"What colour is the {marked.what} with mark {number + 1}?"
    yield Asked(text, shown[number], "colour")
    single = [number for number, colour in enumerate(shown) if Counter(shown)[colour] == 1]
    if single:
        number = rng.choice(single)
        text = f"Which mark is on a {shown[number]} {marked.what}?"
        yield Asked(text, str(number + 1), "mark of colour")


def _sides(marked: Marked, rng: random.Random) -> Iterator[Asked]:
    for axis, (before, after) in enumerate((("left of", "right of"), ("above", "below"))):
        places = [one.place[axis] for one in marked.regions]
        pairs = [
            pair
            for pair in combinations(range(len(places)), 2)
            if abs(places[pair[0]] - places[pair[1]]) >= APART
        ]
        if pairs:
            one, other = rng.sample(rng.choice(pairs), 2)
            side = rng.choice((before, after))
            right = (places[one] < places[other]) == (side == before)
            text = f"Is mark {one + 1} {side} mark {other + 1}?"
            yield Asked(text, "yes" if right else "no", "relation")


def _extremes(marked: Marked, rng: random.Random) -> Iterator[Asked]:
    axis = rng.randrange(2)
    sides = (("left", "right"), ("top", "bottom"))[axis]
    end = rng.randrange(2)
    order = sorted((one.place[axis], number) for number, one in enumerate(marked.regions))
    first, second = (order[0], order[1]) if end == 0 else (order[-1], order[-2])
    if abs(first[0] - second[0]) >= APART:
        text = f"Which mark is closest to the {sides[end]} edge of the map?"
        yield Asked(text, str(first[1] + 1), "extreme")


def _largest(marked: Marked) -> Iterator[Asked]:
    order = sorted(((one.area, number) for number, one in enumerate(marked.regions)), reverse=True)
    if order[0][0] >= LARGER * order[1][0]:
        text = f"Which mark is on the largest of the marked {_several(marked.what)}?"
        yield Asked(text, str(order[0][1] + 1), "largest")


def _neighbours(marked: Marked, rng: random.Random) -> Iterator[Asked]:
    """Two that touch, or two that do not: as often where a map has both."""
    by_answer: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
    for one, other in combinations(range(len(marked.regions)), 2):
        least, most = sorted((marked.regions[one].label, marked.regions[other].label))
        by_answer[(least, most) in marked.neighbours].append((one, other))
    # Only where both could be asked: a map without neighbours would give its answer away.
    if all(by_answer.values()):
        answer = rng.random() < 0.5
        one, other = rng.sample(rng.choice(by_answer[answer]), 2)
        text = f"Do the {_several(marked.what)} with marks {one + 1} and {other + 1} touch?"
        yield Asked(text, "yes" if answer else "no", "touch")


def _names(marked: Marked, rng: random.Random) -> Iterator[Asked]:
    number = rng.randrange(len(marked.regions))
    text = f"Which {marked.what} has mark {number + 1}?"
    yield Asked(text, marked.regions[number].name, "name")
    number = rng.randrange(len(marked.regions))
    text = f"Which mark is on {marked.regions[number].name}?"
    yield Asked(text, str(number + 1), "mark of name")
    known = [number for number, one in enumerate(marked.regions) if one.capital]
    if known:
        number = rng.choice(known)
        text = f"What is the capital of the {marked.what} with mark {number + 1}?"
        yield Asked(text, str(marked.regions[number].capital), "capital")


def _several(what: str) -> str:
    return f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
