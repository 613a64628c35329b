"""Conversations over the easy-VQA images (PyPI package `easy-vqa`, MIT).

easy-VQA has 4,000 training and 1,000 test images of one coloured shape, with 2 to 21 questions
each about its colour, its shape, or whether something is there (yes or no). Here they become
conversations over one to four images, in which a question names the image it is about. A language
prior alone answers two thirds of the yes/no questions, so the builder can thin out the more
frequent answer of each question until nothing is left to be guessed.

Training files come at three levels, each as one question about a lone image (``single``) and as
one question about a named image among several (``named``): ``looks`` has colours and shapes, which
nobody can answer blind, ``plain`` the yes/no questions without 'not' or 'no' in balance, ``full``
every question as often as it comes. ``talk`` has several images and several rounds. Held-out files
are made from test images only.
"""

import json
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from triptych.data.schema import ImagePart, Message, Record
from triptych.errors import DataError
from triptych.synth.dialogue.rounds import Conversation, Question, Round, Style, conversations
from triptych.synth.files import new_folder, read_manifest, write_records
from triptych.synth.question import Asked

Split = Literal["train", "test"]

SPLITS: tuple[Split, ...] = ("train", "test")
SOURCE = "easy-vqa 1.0"
LICENSE = "MIT"
VERSION = 6
"""Raised when the same plan makes other files, so that a folder built before is built anew."""
COLOURS = frozenset({"black", "blue", "brown", "gray", "green", "red", "teal", "yellow"})
SHAPES = frozenset({"circle", "rectangle", "triangle"})
LOOKS = frozenset({"colour", "shape"})
YES_NO = frozenset({"yes-no"})
HELD_OUT = Style(images={2: 1, 3: 1, 4: 1}, rounds_per_image=1, late=0, balance=None)
"""Judged: two to four images from the start, one question about each, every kind as it comes."""
HELD_OUT_PASSES = 3
ONE: dict[str, Any] = {"rounds": 1, "late": 0.0}
"""One question about several images that are all there."""
HELD_OUT_LOOKS = {
    "single": (Style(images={1: 1}, categories=LOOKS), 1),
    "named": (Style(images={2: 1, 3: 1, 4: 1}, categories=LOOKS, rounds=1, late=0), 3),
}
"""One question that nobody can answer blind, about a lone image or a named one among several; and
the conversations that each test image takes part in."""
HELD_OUT_TALK = Style(images={2: 1, 3: 1, 4: 1}, rounds_per_image=3, late=0.5, balance=None)
"""Long held-out conversations, to look at: later answers may be read off earlier ones."""


def category(answer: str) -> str:
    """The kind of question that has this answer: colour, shape or yes-no."""
    if answer in COLOURS:
        return "colour"
    return "shape" if answer in SHAPES else "yes-no"


def read_questions(split: Split) -> list[Question]:
    """Read all questions of a split in the order of the package.

    Raises:
        DataError: the package is not installed.
    """
    package = _package()
    read = package.get_train_questions if split == "train" else package.get_test_questions
    texts, answers, images = read()
    return [
        Question(image, text, answer, category(answer))
        for image, text, answer in zip(images, texts, answers, strict=True)
    ]


def image_files(split: Split) -> dict[int, Path]:
    """The image files of a split by number.

    Raises:
        DataError: the package is not installed.
    """
    package = _package()
    read = package.get_train_image_paths if split == "train" else package.get_test_image_paths
    return {number: Path(path) for number, path in sorted(read().items())}


def image_name(split: Split, number: int) -> str:
    """Path of an image below the folder of the records."""
    return f"images/{split}-{number:04d}.png"


def one_by_one(questions: Sequence[Question]) -> Iterator[Conversation]:
    """Each question alone with its image, in the order of the package."""
    for question in questions:
        yield Conversation((question.image,), (Round((1,), question.text, question),))


def to_record(split: Split, conversation: Conversation) -> Record:
    """Write a conversation as a record without an id; images come before the question."""
    messages: list[Message] = []
    for one in conversation.rounds:
        images = [conversation.images[number - 1] for number in one.arrivals]
        shown = [ImagePart(image_name(split, image)) for image in images]
        asked = Asked(one.text, one.question.answer, one.question.category)
        messages += asked.messages(*shown)
    return Record(tuple(messages), source=SOURCE, license=LICENSE)


def _package() -> ModuleType:
    try:
        import easy_vqa
    except ImportError:
        raise DataError(
            "the package easy-vqa is not installed; install it with: pip install 'triptych[demo]'"
        ) from None
    package: ModuleType = easy_vqa
    return package


@dataclass(frozen=True)
class Plan:
    """What ``build`` writes.

    Attributes:
        seed: of the training files; the held-out files are the same for every seed.
        passes: conversations that each training image takes part in, per training file; a third
            of it where it is alone.
        limit: only the first so many images of each split; None for all.
        style: of the training conversations.
        talk: questions about each image in the file of conversations, at most.
    """

    seed: int = 0
    passes: int = 9
    limit: int | None = None
    style: Style = field(default_factory=Style)
    talk: int = 1

    def describe(self) -> dict[str, object]:
        """The plan as plain values."""
        style = vars(self.style) | {"images": sorted(self.style.images.items())}
        plain: dict[str, object] = json.loads(json.dumps(vars(self) | {"style": style}))
        return plain


def files(plan: Plan) -> dict[str, Iterator[Record]]:
    """The records of every file by its name.

    Raises:
        DataError: the package is not installed, or the style has no conversation of one image or
            none of several.
    """
    weights = plan.style.images
    single = {count: share for count, share in weights.items() if count == 1}
    several = {count: share for count, share in weights.items() if count > 1}
    if not single or not several or len(single) + len(several) < len(weights):
        raise DataError(
            f"image counts {dict(weights)}: weights for 1 and for larger numbers are needed"
        )
    train, test = _limited("train", plan), _limited("test", plan)

    def trained(name: str, style: Style) -> Iterator[Record]:
        rng = random.Random(f"{plan.seed} {name}")
        passes = max(1, plan.passes // 3) if style.images == single else plan.passes
        return _records("train", conversations(train, style, passes, rng))

    judged = conversations(test, HELD_OUT, HELD_OUT_PASSES, random.Random("held out"))
    talk = conversations(test, HELD_OUT_TALK, 1, random.Random("held out talk"))
    training = {
        f"train-{level}-{name}.jsonl": trained(f"{level} {name}", replace(style, **changes))
        for level, style in _levels(plan.style).items()
        for name, changes in (("single", {"images": single}), ("named", {"images": several} | ONE))
    }
    return (
        training
        | {
            "train-talk.jsonl": trained(
                "talk", replace(plan.style, images=several, rounds_per_image=plan.talk)
            ),
            "test-single.jsonl": _records("test", one_by_one(test)),
            "test-multi.jsonl": _records("test", judged),
            "test-talk.jsonl": _records("test", talk),
        }
        | {
            f"test-looks-{name}.jsonl": _records(
                "test", conversations(test, style, passes, random.Random(f"held out looks {name}"))
            )
            for name, (style, passes) in HELD_OUT_LOOKS.items()
        }
    )


def _levels(style: Style) -> dict[str, Style]:
    return {
        "looks": replace(style, categories=LOOKS),
        "plain": replace(style, categories=YES_NO, negations=False),
        "full": replace(style, balance=None),
    }


def _records(split: Split, found: Iterator[Conversation]) -> Iterator[Record]:
    return (to_record(split, conversation) for conversation in found)


def _limited(split: Split, plan: Plan) -> list[Question]:
    questions = read_questions(split)
    return [one for one in questions if plan.limit is None or one.image < plan.limit]


def build(out: Path, plan: Plan, *, replace_other: bool = False) -> dict[str, int]:
    """Write the images and the records; returns the number of records of each file.

    A folder that was built from an equal plan is left as it is.

    Raises:
        DataError: the package is not installed, or ``out`` holds something else.
    """
    plain = {"source": SOURCE, "version": VERSION, **plan.describe()}
    built = read_manifest(out)
    if built is not None and built.plan == plain:
        return built.files
    planned = files(plan)
    with new_folder(out, plain, replace=replace_other) as (folder, counts):
        (folder / "images").mkdir()
        for split in SPLITS:
            for number, path in image_files(split).items():
                if plan.limit is None or number < plan.limit:
                    shutil.copyfile(path, folder / image_name(split, number))
        for name, records in planned.items():
            counts[name] = write_records(folder / name, records, "easy-vqa")
    return counts
