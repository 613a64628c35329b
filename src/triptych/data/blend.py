"""Blends of DeepSpeed-VisualChat (arXiv 2309.14327): multi-image conversations from simpler ones.

A blend is a reader over other readers. Which records meet is drawn once from its seed, so that the
sizes of its records are known before training; ``draws`` makes several draws, one after the other.
"""

import re
from array import array
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Annotated, Literal, TypeAlias

import numpy as np
from pydantic import Field

from triptych.data.readers.base import Reader
from triptych.data.readers.members import hash_key
from triptych.data.record import ImagePart, Message, Record, TextPart
from triptych.data.roles import split_rounds
from triptych.data.tags import tag
from triptych.errors import DataError
from triptych.spec import Spec

DIGITS = re.compile(r"\d{6,}$")


class Concatenate(Spec):
    """Conversations are joined in random groups; the system message of the first one is kept."""

    kind: Literal["concatenate"] = "concatenate"
    """Names this blend."""

    most: int = Field(default=3, ge=1)
    """Conversations of a group; its size is drawn from 1 to this number."""

    draws: int = Field(default=1, ge=1)
    """How often all records are grouped anew."""

    seed: int = 0
    """Of the draws."""


class Differences(Spec):
    """Conversations about the images of a pair, then the questions about their difference."""

    kind: Literal["differences"] = "differences"
    """Names this blend."""

    dialogues: str
    """The source (by name) of conversations about single images; this one holds the pairs."""

    follow_up: bool = False
    """Adds one more conversation for each image at the end, which names its image."""

    draws: int = Field(default=1, ge=1)
    """How often the conversations of each pair are drawn."""

    seed: int = 0
    """Of the draws."""


BlendSpec: TypeAlias = Annotated[Concatenate | Differences, Field(discriminator="kind")]


class ConcatenatedReader:
    """Records of a reader in groups of 1 to ``most``; every record is in one group of each draw.

    Args:
        reader: conversations.
        spec: group sizes and draws.
    """

    def __init__(self, reader: Reader, spec: Concatenate) -> None:
        self.reader = reader
        count = len(reader)
        order, starts = [], array("q")
        for draw in range(spec.draws):
            rng = np.random.default_rng([spec.seed, draw])
            order.append(rng.permutation(count))
            sizes = rng.integers(1, spec.most + 1, size=count)
            stops = np.cumsum(sizes)
            groups = int(np.searchsorted(stops, count)) + 1 if count else 0
            starts.extend((draw * count + stops[:groups] - sizes[:groups]).tolist())
        starts.append(spec.draws * count)
        self._order = np.concatenate(order).astype(np.int64)
        self._starts = np.array(starts, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def members(self, index: int) -> list[int]:
        """Numbers of the records of a group, in order."""
        found: list[int] = self._order[self._starts[index] : self._starts[index + 1]].tolist()
        return found

    def __getitem__(self, index: int, /) -> Record:
        return join([self.reader[member] for member in self.members(index)])

    def where(self, index: int) -> str:
        """Name of a group: its first record, and how many follow."""
        members = self.members(index)
        first = self.reader.where(members[0])
        return first if len(members) == 1 else f"{first} and {len(members) - 1} more"


class DifferenceReader:
    """Pairs of images with conversations about each image, then about their difference.

    For each image in order 1 to all of its conversations are drawn without replacement (for the
    last image 0 to all); the first question about an image shows it. Then come the questions of
    the pair, of which the first shows the images that are left. A pair is used when each of its
    images but the last has a conversation.

    Args:
        pairs: records that show all their images in the first round.
        dialogues: conversations about one image each.
        spec: draws and follow-up.

    Raises:
        DataError: no pair can be used.
    """

    def __init__(self, pairs: Reader, dialogues: Reader, spec: Differences) -> None:
        self.pairs, self.dialogues, self.spec = pairs, dialogues, spec
        names = array("Q", [_image_key(dialogues[k]) for k in range(len(dialogues))])
        self._order = np.argsort(np.array(names, dtype=np.uint64), kind="stable")
        self._names = np.array(names, dtype=np.uint64)[self._order]
        self._usable = np.array(
            [k for k in range(len(pairs)) if self._is_usable(pairs[k])], dtype=np.int64
        )
        if not len(self._usable):
            raise DataError(
                f"none of the {len(pairs)} pairs has a conversation about each image but its last; "
                "images are matched by the name of their file"
            )

    def __len__(self) -> int:
        return len(self._usable) * self.spec.draws

    def where(self, index: int) -> str:
        """Name of the pair."""
        return self.pairs.where(int(self._usable[index % len(self._usable)]))

    def __getitem__(self, index: int, /) -> Record:
        pair = self.pairs[int(self._usable[index % len(self._usable)])]
        rng = np.random.default_rng([self.spec.seed, index])
        messages: list[Message] = []
        waiting: list[ImagePart] = []
        later: list[Message] = []
        for number, image in enumerate(pair.images):
            known = rng.permutation(self._find(image))
            fewest = 0 if number + 1 == len(pair.images) else 1
            taken = int(rng.integers(fewest, len(known) + 1)) if len(known) else 0
            shown = [image]
            for dialogue in known[:taken].tolist():
                rounds = _spoken(self.dialogues[dialogue])
                messages += _show(shown, rounds)
                shown = []
            waiting += shown
            if self.spec.follow_up and taken < len(known) and not shown:
                rounds = _spoken(self.dialogues[int(known[taken])])
                later += _mention(rounds, number)
        _, asked = split_rounds(pair.messages)
        kept = rng.permutation(len(asked))[: int(rng.integers(1, len(asked) + 1))]
        for place in sorted(kept.tolist()):
            messages += _show(waiting, _without_images(asked[place]))
            waiting = []
        return replace(pair, messages=(*messages, *later))

    def _is_usable(self, pair: Record) -> bool:
        return bool(pair.images) and all(len(self._find(image)) for image in pair.images[:-1])

    def _find(self, image: ImagePart) -> np.ndarray:
        """Numbers of the conversations about an image."""
        name = np.uint64(hash_key(match_name(image).encode()))
        start = np.searchsorted(self._names, name, side="left")
        stop = np.searchsorted(self._names, name, side="right")
        return self._order[start:stop]


def blend(spec: BlendSpec, own: Reader, others: dict[str, Reader]) -> Reader:
    """Make the reader of a blend.

    Args:
        spec: the blend.
        own: the records of the source that has the blend.
        others: all sources by name, unblended.

    Raises:
        DataError: the blend names an unknown source.
    """
    if isinstance(spec, Concatenate):
        return ConcatenatedReader(own, spec)
    if spec.dialogues not in others:
        raise DataError(f"blend: unknown source '{spec.dialogues}'; known: {', '.join(others)}")
    return DifferenceReader(own, others[spec.dialogues], spec)


def join(records: Sequence[Record]) -> Record:
    """Join conversations into one; only the first keeps its system message.

    Raises:
        DataError: one of several is a document or preference data.
    """
    first = records[0]
    if len(records) == 1:
        return first
    messages = list(first.messages)
    for record in records:
        if record.chosen is not None or record.messages[0].role == "document":
            raise DataError(f"{record.where}: only conversations can be joined")
        if record is not first:
            messages += _spoken(record)
    where = f"{first.where} and {len(records) - 1} more"
    return replace(first, messages=tuple(messages), where=where, metadata=None)


def match_name(image: ImagePart) -> str:
    """What two names of one picture have in common: the long number at the end of the file's name.

    ``COCO_train2014_000000000009.jpg`` and ``CGD_IMG_000000000009`` are the same picture.
    """
    stem = PurePosixPath(image.name).stem
    digits = DIGITS.search(stem)
    return digits.group() if digits else stem


def _image_key(record: Record) -> int:
    """Hash of the name of the only image; of nothing that is looked for where there is another."""
    images = record.images
    return hash_key(match_name(images[0]).encode()) if len(images) == 1 else hash_key(b"\0")


def _spoken(record: Record) -> list[Message]:
    return [message for message in record.messages if message.role != "system"]


def _without_images(messages: Sequence[Message]) -> list[Message]:
    return [
        replace(m, content=tuple(part for part in m.content if isinstance(part, TextPart)))
        for m in messages
    ]


def _show(images: Sequence[ImagePart], messages: Sequence[Message]) -> list[Message]:
    """Messages with exactly ``images`` in front of their first question."""
    plain = _without_images(messages)
    return [replace(plain[0], content=(*images, *plain[0].content)), *plain[1:]]


def _mention(messages: Sequence[Message], number: int) -> list[Message]:
    """Messages about an image shown before: the first question names it."""
    plain = _without_images(messages)
    name = TextPart(f"About {tag(number, 'ordinals')}: ")
    return [replace(plain[0], content=(name, *plain[0].content)), *plain[1:]]
