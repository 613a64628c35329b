"""Pages with one random code each, to measure how small a print a model can read.

A page is empty but for a code of random characters, printed at one of several heights anywhere on
it; the question asks for the code. Nothing but the pixels gives it away: a model that does not
look is right once in ``len(alphabet) ** length`` times. No code of the held-out pages is printed
on a training page. The category of a record is the height of its print, so that scores come by
height.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from triptych.data.schema import ImagePart, Record
from triptych.errors import DataError
from triptych.synth import pipeline
from triptych.synth.album import Album, Sample
from triptych.synth.question import Asked

SOURCE = "codes"
LICENSE = "Apache-2.0"
PORTION = 200
VERSION = 2
"""Raised when the same plan makes other files, so that a folder built before is built anew."""
ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"
"""Digits and capitals without those that look alike (0 and O, 1 and I)."""
QUESTIONS = ("What is the code?", "Read the code.", "Which code is on the page?")
SHAPES: tuple[tuple[int, int], ...] = ((1, 1), (2, 1), (1, 2), (3, 1))
"""Width and height of a page in parts; the longer side is ``Plan.page``."""
CAPITALS = 0.729
"""Height of a capital of DejaVu Sans Mono, in font sizes."""


@dataclass(frozen=True)
class Plan:
    """What ``build`` writes.

    Attributes:
        seed: of the training pages; the held-out pages are the same for every seed.
        train, test: number of pages.
        page: longer side of a page in pixels.
        heights: of a capital in pixels; every height is equally frequent.
        length: characters of a code.
        alphabet: what a code is made of.
    """

    seed: int = 0
    train: int = 4000
    test: int = 400
    page: int = 192
    heights: tuple[int, ...] = (6, 9, 14, 20)
    length: int = 6
    alphabet: str = ALPHABET


@dataclass(frozen=True)
class Page:
    """One page: the code, the height of its print, and where it stands."""

    code: str
    height: int
    size: tuple[int, int]
    place: tuple[int, int]
    paper: int
    ink: int
    question: str


def pages(plan: Plan, split: str) -> Iterator[Page]:
    """The pages of a split (``train`` or ``test``) in order.

    Raises:
        DataError: there are fewer codes than pages, or a print fits on no page.
    """
    held_out = _codes(plan, plan.test, "held out", frozenset())
    if split == "test":
        codes, rng = held_out, random.Random("pages held out")
    else:
        name = f"{plan.seed} train"
        codes = _codes(plan, plan.train, name, frozenset(held_out))
        rng = random.Random(f"pages {name}")
    for number, code in enumerate(codes):
        yield _lay_out(plan, code, plan.heights[number % len(plan.heights)], rng)


def draw(page: Page) -> Image.Image:
    """Print a page, in grey."""
    image = Image.new("L", page.size, page.paper)
    box = _box(page.code, page.height)
    left, top = page.place
    pen = ImageDraw.Draw(image)
    pen.text((left - box[0], top - box[1]), page.code, page.ink, _font(page.height))
    return image


def to_record(page: Page, image: str) -> Record:
    """Write a page as a record without an id.

    Args:
        page: the page.
        image: path of its picture.
    """
    messages = Asked(page.question, page.code, f"{page.height} px").messages(ImagePart(image))
    return Record(messages, source=SOURCE, license=LICENSE, metadata={"height": page.height})


@dataclass(frozen=True)
class Codes:
    """The builder."""

    plan: Plan
    name: str = SOURCE

    @property
    def seed(self) -> int:
        """Of the training pages."""
        return self.plan.seed

    def describe(self) -> Mapping[str, object]:
        """All that decides what is made."""
        return {"version": VERSION, **asdict(self.plan)}

    def items(self) -> Sequence[str]:
        """Portions of the pages of each split.

        Raises:
            DataError: there are fewer codes than pages, or a print fits on no page.
        """
        return [
            f"{split}/{start}"
            for split in ("train", "test")
            for start in range(0, len(list(pages(self.plan, split))), PORTION)
        ]

    def make(self, item: str, album: Album, rng: random.Random) -> Iterator[Sample]:
        """Print the pages of a portion."""
        split, _, start = item.partition("/")
        for page in islice(pages(self.plan, split), int(start), int(start) + PORTION):
            image = album.add(draw(page))
            yield Sample(f"{split}.jsonl", to_record(page, str(image.image)))


def build(out: Path, plan: Plan, *, replace_other: bool = False) -> dict[str, int]:
    """Write pages and records in this process; returns the number of records of each file.

    A folder that was built from an equal plan is left as it is.

    Raises:
        DataError: ``out`` holds something else, there are fewer codes than pages, or a print fits
            on no page.
    """
    return pipeline.build(Codes(plan), out, replace_other=replace_other).manifest.files


def _codes(plan: Plan, count: int, name: str, taken: frozenset[str]) -> list[str]:
    """Different codes, none of ``taken``."""
    letters = sorted(set(plan.alphabet))
    if len(letters) ** plan.length < 2 * (plan.train + plan.test):
        raise DataError(
            f"{len(letters)} characters make {len(letters) ** plan.length} codes of {plan.length}, "
            f"too few for {plan.train + plan.test} pages (half of them are used at most)"
        )
    rng = random.Random(f"codes {name}")
    found: dict[str, None] = {}
    while len(found) < count:
        code = "".join(rng.choices(letters, k=plan.length))
        if code not in taken:
            found[code] = None
    return list(found)


def _lay_out(plan: Plan, code: str, height: int, rng: random.Random) -> Page:
    left, top, right, bottom = _box(code, height)
    sizes = [
        (plan.page * wide // max(wide, high), plan.page * high // max(wide, high))
        for wide, high in SHAPES
    ]
    fitting = [(w, h) for w, h in sizes if right - left <= w and bottom - top <= h]
    if not fitting:
        raise DataError(
            f"a code of {plan.length} characters {height} pixels high is {right - left} pixels "
            f"wide and fits on no page of {plan.page} pixels; enlarge the page or shrink the print"
        )
    width, depth = rng.choice(fitting)
    place = rng.randint(0, width - (right - left)), rng.randint(0, depth - (bottom - top))
    paper, ink = rng.randint(200, 255), rng.randint(0, 60)
    question = rng.choice(QUESTIONS)
    return Page(code, height, (width, depth), place, paper, ink, question)


def _box(code: str, height: int) -> Sequence[int]:
    """Left, top, right and bottom of the ink of a code, in pixels."""
    return [round(side) for side in _font(height).getbbox(code)]


def _font(height: int) -> ImageFont.FreeTypeFont:
    # Part of matplotlib, so that a page is the same wherever the dependencies are the same.
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSansMono.ttf"
    return ImageFont.truetype(str(path), round(height / CAPITALS))
