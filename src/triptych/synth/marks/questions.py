"""Questions about marked things: what they are, which one is which, and how they stand."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import permutations

from triptych.synth.marks.drawing import Thing
from triptych.synth.question import Asked

NAME = ("What is mark {n}?", "What is marked {n}?", "Which thing has the mark {n}?")
FIND = ("Which mark is on the {label}?", "What is the number of the {label}?")
LIST = ("List all marks and what they are on.", "Name the thing at each mark.")
BESIDE = ("Is mark {a} {side} mark {b}?", "Does mark {a} stand {side} mark {b}?")
FURTHEST = ("Which mark is {end}?", "Which of the marks is {end}?")
SEEN = ("Where is mark {a}, seen from mark {b}?", "In which direction from mark {b} is mark {a}?")
SIDES = ("left of", "right of", "above", "below")
ENDS = ("furthest to the left", "furthest to the right", "at the very top", "at the very bottom")
CLEAR = 0.08
"""Share of the longer side of the picture by which places differ that are compared."""
STEEP = 2.5
"""How much more one thing is beside another than above it, to be just beside it."""


def ask_marks(
    things: Sequence[Thing],
    size: tuple[int, int],
    count: int,
    rng: random.Random,
    *,
    named: bool = True,
) -> list[Asked]:
    """Questions of different kinds about marked things.

    Args:
        things: mark 1 is on the first of them.
        size: of the picture in pixels.
        count: of questions, at most; no kind comes twice.
        rng: draws everything.
        named: ask what marked things are, which nobody can say who never saw one.
    """
    far = CLEAR * max(size)
    kinds: list[Callable[[], Asked | None]] = [
        lambda: _find(things, rng),
        lambda: _beside(things, far, rng),
        lambda: _furthest(things, far, rng),
        lambda: _seen(things, far, rng),
    ]
    if named:
        kinds += [lambda: _name(things, rng), lambda: _list(things, rng)]
    rng.shuffle(kinds)
    made = (kind() for kind in kinds)
    return [one for one in made if one is not None][:count]


def _name(things: Sequence[Thing], rng: random.Random) -> Asked:
    number = rng.randrange(len(things))
    return Asked(rng.choice(NAME).format(n=number + 1), things[number].label, "name")


def _find(things: Sequence[Thing], rng: random.Random) -> Asked | None:
    """The mark of a thing that is there once."""
    often = Counter(thing.label for thing in things)
    once = [n for n, thing in enumerate(things, 1) if often[thing.label] == 1]
    if not once:
        return None
    number = rng.choice(once)
    return Asked(rng.choice(FIND).format(label=things[number - 1].label), str(number), "find")


def _list(things: Sequence[Thing], rng: random.Random) -> Asked:
    lines = [f"{number}: {thing.label}" for number, thing in enumerate(things, 1)]
    return Asked(rng.choice(LIST), "\n".join(lines), "list")


def _beside(things: Sequence[Thing], far: float, rng: random.Random) -> Asked | None:
    """Yes as often as no: the pair is drawn first, the order of the two after it."""
    axis = rng.randrange(2)
    pairs = [
        (a, b)
        for a, b in permutations(range(len(things)), 2)
        if things[b].centre[axis] - things[a].centre[axis] > far
    ]
    if not pairs:
        return None
    low, high = rng.choice(pairs)
    yes = rng.random() < 0.5
    a, b = (low, high) if yes else (high, low)
    side = SIDES[2 * axis]
    if rng.random() < 0.5:
        a, b, side = b, a, SIDES[2 * axis + 1]
    text = rng.choice(BESIDE).format(a=a + 1, side=side, b=b + 1)
    return Asked(text, "yes" if yes else "no", "relation")


def _furthest(things: Sequence[Thing], far: float, rng: random.Random) -> Asked | None:
    """The thing that is clearly further to one side than all others."""
    ends = list(range(len(ENDS)))
    rng.shuffle(ends)
    for end in ends:
        axis, sign = end // 2, 1 if end % 2 else -1
        order = sorted(range(len(things)), key=lambda n: -sign * things[n].centre[axis])
        first, second = (sign * things[n].centre[axis] for n in order[:2])
        if first - second > far / 2:
            text = rng.choice(FURTHEST).format(end=ENDS[end])
            return Asked(text, str(order[0] + 1), "furthest")
    return None


def _seen(things: Sequence[Thing], far: float, rng: random.Random) -> Asked | None:
    """The direction from one thing to another, where it is plainly one of eight."""
    pairs = [
        (a, b, direction)
        for a, b in permutations(range(len(things)), 2)
        if (direction := _direction(things[a], things[b], far)) is not None
    ]
    if not pairs:
        return None
    a, b, direction = rng.choice(pairs)
    return Asked(rng.choice(SEEN).format(a=a + 1, b=b + 1), direction, "direction")


def _direction(thing: Thing, other: Thing, far: float) -> str | None:
    """Where ``thing`` is, seen from ``other``; None where it cannot be said plainly."""
    across = thing.centre[0] - other.centre[0]
    down = thing.centre[1] - other.centre[1]
    side, height = ("right" if across > 0 else "left"), ("below" if down > 0 else "above")
    wide, tall = abs(across), abs(down)
    if max(wide, tall) < far:
        return None
    if wide > 2 * STEEP * tall:
        return side
    if tall > 2 * STEEP * wide:
        return height
    return f"{height} and {side}" if max(wide, tall) < STEEP * min(wide, tall) else None
