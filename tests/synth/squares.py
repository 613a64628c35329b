"""A tiny builder whose items are squares of random grey; some go wrong on purpose."""

import os
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from triptych.data.schema import ImagePart, Message, Record, TextPart
from triptych.errors import DataError
from triptych.synth.album import Album, Sample


def square(grey: int) -> Image.Image:
    return Image.new("RGB", (4, 4), (grey, grey, grey))


def asked(image: ImagePart, answer: str) -> Record:
    question = Message("user", (image, TextPart("How grey?")))
    return Record((question, Message("assistant", (TextPart(answer),))), source="s 1", license="L")


@dataclass(frozen=True)
class Squares:
    """Item ``train/3`` makes two squares; an item's name says what goes wrong with it."""

    names: Sequence[str]
    seed: int = 0
    name: str = "squares"
    files: Mapping[str, Path] = field(default_factory=dict)

    def describe(self) -> Mapping[str, object]:
        return {"names": list(self.names), "seed": self.seed}

    def items(self) -> Sequence[str]:
        return self.names

    def make(self, item: str, album: Album, rng: random.Random) -> Iterator[Sample]:
        split, _, what = item.partition("/")
        if what == "bad":
            raise DataError(f"{item}: broken on purpose")
        if what == "killer":
            os._exit(1)
        if what == "file":
            part = album.add_file(self.files[item])
            yield Sample(f"{split}.jsonl", asked(part, "file"))
            return
        if what == "half":
            album.reject(item, "one half is missing")
        for _ in range(1 if what in ("half", "same") else 2):
            grey = 77 if what == "same" else 100 + rng.randrange(10_000) % 150
            yield Sample(f"{split}.jsonl", asked(album.add(square(grey)), str(grey)))


def seeded(seed: int) -> random.Random:
    return random.Random(seed)
