"""Several drawings on one sheet: how many there are, and where they are."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image

from triptych.errors import DataError
from triptych.synth.drawings.drawing import Drawing
from triptych.synth.drawings.render import GROUND, render
from triptych.synth.question import Asked, one_of

CELLS = 3
"""Rows and columns in which things stand when they are counted."""
MOST = 5
"""Things of one name, and things in all but those, at most."""
QUARTERS = ("top left", "top right", "bottom left", "bottom right")
FILL = 0.85
"""Side of a drawing in its cell."""
TRIES = 20
HOW_MANY = ("How many pictures of {} are there?", "Count the pictures of {}.")
HOW_MANY_ALL = ("How many things are shown?", "How many things do you see?")
WHERE = ("Where is the picture of {}: {}?",)
WHAT = ("What is {}?", "What does the picture at the {} show?")
BESIDE = ("Is the picture of {} to the {} of the picture of {}?",)


@dataclass(frozen=True)
class Placed:
    """A drawing and its left and top edge, in pixels."""

    drawing: Drawing
    left: int
    top: int


@dataclass(frozen=True)
class Scene:
    """A sheet of drawings.

    Attributes:
        size: side of the sheet in pixels.
        side: side of every drawing.
        placed: what stands on it.
        questions: what is asked about it.
    """

    size: int
    side: int
    placed: tuple[Placed, ...]
    questions: tuple[Asked, ...]

    def draw(self) -> Image.Image:
        """The picture.

        Raises:
            DataError: a drawing cannot be drawn.
        """
        sheet = Image.new("RGB", (self.size, self.size), GROUND)
        for one in self.placed:
            picture = render(one.drawing.art, self.side, loose=one.drawing.loose)
            sheet.paste(picture, (one.left, one.top), picture)
        return sheet


def crowd(drawings: Sequence[Drawing], size: int, rng: random.Random) -> Scene:
    """Some things of one name among others, to be counted.

    Each number of things of the name is as frequent as any other.
    """
    target = rng.choice(drawings)
    count = rng.randint(1, MOST)
    others = _different(drawings, rng.randint(0, min(MOST - 1, CELLS**2 - count)), rng, target)
    shown = [target] * count + others
    rng.shuffle(shown)
    cells = rng.sample(range(CELLS**2), len(shown))
    questions = (
        Asked(rng.choice(HOW_MANY).format(target.name), str(count), "count"),
        Asked(rng.choice(HOW_MANY_ALL), str(len(shown)), "count all"),
    )
    return _place(shown, cells, CELLS, size, questions, rng)


def quarters(drawings: Sequence[Drawing], size: int, rng: random.Random, *, named: bool) -> Scene:
    """Four different things in the four corners.

    Args:
        drawings: what may be shown.
        size: side of the sheet in pixels.
        rng: draws everything.
        named: ask for names, too.
    """
    first = rng.choice(drawings)
    shown = [first, *_different(drawings, 3, rng, first)]
    rng.shuffle(shown)
    questions = list(_about_quarters(shown, rng))
    if named:
        number = rng.randrange(4)
        where = rng.choice(WHAT).format(QUARTERS[number])
        questions.append(Asked(where, shown[number].name, "name at"))
    return _place(shown, range(4), 2, size, tuple(questions), rng)


def _about_quarters(shown: Sequence[Drawing], rng: random.Random) -> Iterator[Asked]:
    number = rng.randrange(4)
    options = list(QUARTERS)
    rng.shuffle(options)
    text = rng.choice(WHERE).format(shown[number].name, one_of(options))
    yield Asked(text, QUARTERS[number], "position")
    # Two of one row, so that left and right are plain to see.
    row = rng.choice((0, 2))
    one, other = rng.sample((row, row + 1), 2)
    side = rng.choice(("left", "right"))
    text = rng.choice(BESIDE).format(shown[one].name, side, shown[other].name)
    yield Asked(text, "yes" if (one < other) == (side == "left") else "no", "relation")


def _different(
    drawings: Sequence[Drawing], count: int, rng: random.Random, target: Drawing
) -> list[Drawing]:
    """Drawings of other concepts than ``target``, all different.

    Raises:
        DataError: there are too few.
    """
    keys, found = {target.concept.key}, list[Drawing]()
    for _ in range(TRIES * count):
        one = rng.choice(drawings)
        if one.concept.key not in keys and len(found) < count:
            keys.add(one.concept.key)
            found.append(one)
    if len(found) < count:
        raise DataError(f"too few different things for a scene of {count + 1}")
    return found


def _place(
    shown: Sequence[Drawing],
    cells: Sequence[int],
    columns: int,
    size: int,
    questions: tuple[Asked, ...],
    rng: random.Random,
) -> Scene:
    cell = size // columns
    side = int(cell * FILL)
    free = cell - side
    placed = [
        Placed(
            one,
            (number % columns) * cell + rng.randint(0, free),
            (number // columns) * cell + rng.randint(0, free),
        )
        for one, number in zip(shown, cells, strict=True)
    ]
    return Scene(size, side, tuple(placed), questions)
