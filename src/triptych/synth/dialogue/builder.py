"""Dialogues over 2 to 8 images in 3 to 6 rounds, made of single questions with known answers.

The single questions come from data sets that were built before: any records that show one image.
Images arrive in several rounds; a question says by number, or by reference to what was said before,
which image it is about; and the last round may ask of which image something is true. Dialogues for
training are made of training images only.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from triptych.data.schema import Message, Record
from triptych.errors import DataError
from triptych.synth.album import Album, Sample
from triptych.synth.dialogue.atoms import Atom, Shown, find_files, read_images
from triptych.synth.dialogue.rounds import Conversation, Question, Style, converse
from triptych.synth.dialogue.wording import WHICH, word_rounds
from triptych.synth.files import digest_of
from triptych.synth.provenance import join_licenses, join_sources
from triptych.synth.question import Asked

VERSION = 2
"""Raised when the same plan makes other files, so that a folder built before is built anew."""
PORTION = 20


@dataclass(frozen=True)
class Dialogues:
    """The builder.

    Attributes:
        places: built folders, or files whose names begin with ``train`` or ``test``.
        seed: of the training dialogues; the held-out ones are the same for every seed.
        train, test: number of dialogues.
        images: fewest and most images of a dialogue.
        rounds: fewest and most rounds.
        which: share of the dialogues that end with a question of which image something is true,
            where there is one.
    """

    places: tuple[Path, ...]
    seed: int = 0
    train: int = 5000
    test: int = 300
    images: tuple[int, int] = (2, 8)
    rounds: tuple[int, int] = (3, 6)
    which: float = 0.3
    name: str = "dialogues"

    def describe(self) -> Mapping[str, object]:
        """All that decides what is made."""
        plain = {key: value for key, value in vars(self).items() if key != "places"}
        files = [*find_files(self.places, "train"), *find_files(self.places, "test")]
        digests = [f"{file.parent.name}/{file.name} {digest_of(file)}" for file in files]
        return plain | {"version": VERSION, "files": digests}

    def items(self) -> Sequence[str]:
        """Portions of the dialogues of each split that has enough images.

        Raises:
            DataError: there are too few training images.
        """
        names = []
        for split, count in (("train", self.train), ("test", self.test)):
            found = len(self._shown(split))
            if found >= self.images[1]:
                names += [f"{split}/{start}" for start in range(0, count, PORTION)]
            elif split == "train" and count:
                raise DataError(
                    f"{found} training images in {', '.join(map(str, self.places))} have a short "
                    f"question; a dialogue of {self.images[1]} images needs at least so many"
                )
        return names

    def make(self, item: str, album: Album, rng: random.Random) -> Iterator[Sample]:
        """Compose the dialogues of a portion."""
        split, _, start = item.partition("/")
        if split == "test":
            rng = random.Random(f"held out dialogues {item}")
        shown = self._shown(split)
        last = self.train if split == "train" else self.test
        for number in range(int(start), min(int(start) + PORTION, last)):
            try:
                yield Sample(f"{split}.jsonl", self._compose(shown, album, rng))
            except DataError as error:
                album.reject(f"{split} dialogue {number}", str(error))

    def _shown(self, split: str) -> Sequence[Shown]:
        return read_images(find_files(self.places, split))

    def _compose(self, shown: Sequence[Shown], album: Album, rng: random.Random) -> Record:
        rounds = rng.randint(*self.rounds)
        chosen = rng.sample(shown, rng.randint(*self.images))
        table = {
            place: [Question(place, a.question, a.answer, a.category) for a in one.atoms]
            for place, one in enumerate(chosen)
        }
        # So many about each image that the rounds can be filled.
        style = Style(rounds_per_image=-(-rounds // len(chosen)) + 1, rounds=rounds)
        due = _spread(len(chosen), rounds, rng)
        talk = converse(range(len(chosen)), table, style, rng, due)
        arrived = sum(len(one.arrivals) for one in talk.rounds)
        if len(talk.rounds) < self.rounds[0] or arrived < len(chosen):
            raise DataError(
                f"only {len(talk.rounds)} questions can be asked about its {len(chosen)} images"
            )
        messages = _messages(talk, chosen, album, rng)
        if rng.random() < self.which:
            end = _which(talk, chosen, rng)
            if end is not None:
                # In place of the last round, unless an image came with it.
                if not talk.rounds[-1].arrivals and len(talk.rounds) == self.rounds[1]:
                    messages = messages[:-2]
                if len(messages) < 2 * self.rounds[1]:
                    messages += end
        return _record(messages, [one.atoms for one in chosen])


def _spread(count: int, rounds: int, rng: random.Random) -> dict[int, int]:
    """The round in which each image arrives: some at first, the others one by one or together."""
    first = rng.randint(1, count)
    later = sorted(rng.randrange(rounds) for _ in range(count - first))
    return {
        place: (0 if place <= first else later[place - first - 1]) for place in range(1, count + 1)
    }


def _messages(
    talk: Conversation, chosen: Sequence[Shown], album: Album, rng: random.Random
) -> list[Message]:
    messages: list[Message] = []
    for one, text in zip(talk.rounds, word_rounds(talk, rng), strict=True):
        new = [chosen[talk.images[place - 1]].path for place in one.arrivals]
        images = [album.add_file(path, link=True) for path in new]
        asked = Asked(text, one.question.answer, one.question.category)
        messages += asked.messages(*images)
    return messages


def _which(talk: Conversation, chosen: Sequence[Shown], rng: random.Random) -> list[Message] | None:
    """Of which image something is true: a question that several images answer differently."""
    answers: dict[str, dict[int, str]] = {}
    for number, place in enumerate(talk.images, 1):
        for atom in chosen[place].atoms:
            answers.setdefault(atom.question, {})[number] = atom.answer
    fitting = [
        (question, number)
        for question, by_image in sorted(answers.items())
        if len(by_image) == len(chosen)
        for number, answer in by_image.items()
        if list(by_image.values()).count(answer) == 1
    ]
    if not fitting:
        return None
    question, number = rng.choice(fitting)
    text = rng.choice(WHICH).format(q=question, answer=answers[question][number])
    return list(Asked(text, f"image {number}", "which image").messages())


def _record(messages: Sequence[Message], atoms: Sequence[Sequence[Atom]]) -> Record:
    """A record that names the source and licence of each of its images."""
    firsts = [own[0] for own in atoms]
    return Record(
        tuple(messages),
        source=join_sources(one.source for one in firsts),
        license=join_licenses(one.license for one in firsts),
        metadata={"records": [one.record for one in firsts]},
    )
