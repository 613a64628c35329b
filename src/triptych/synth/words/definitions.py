"""The data set of words: questions about the meaning of WordNet's nouns, without images.

The concepts of a noun decide the split, as they do for drawings: with the same share held out, no
noun is trained here that has a held-out concept of the drawings among its meanings.
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, TypeAlias

from triptych.data.schema import Record
from triptych.synth.album import Album, Sample
from triptych.synth.drawings.catalogue import WORDNET
from triptych.synth.drawings.kinds import key_of
from triptych.synth.question import Asked, one_of
from triptych.synth.split import held_out
from triptych.synth.words.wordnet import Synset, WordNet

VERSION = 1
"""Raised when the same plan makes other files, so that a folder built before is built anew."""
FOLDER = "usr/share/wordnet"
PLAIN = re.compile(r"[a-z]+( [a-z]+)*")
PORTION = 200
"""Nouns of one item of work."""
CHOICES = 4
Split: TypeAlias = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")
MEANS = ('What does the word "{}" mean?', 'What is meant by "{}"?', 'Explain the word "{}".')
WHICH = ('Which word means "{}": {}?', 'Choose the word for "{}": {}.')
KIND = ('Of what is "{}" a kind: {}?',)
IS_KIND = ('Is "{}" a kind of "{}"?',)
SAME = ('Give another word for "{}".',)


@dataclass(frozen=True)
class Noun:
    """A noun and its most frequent meaning."""

    word: str
    sense: Synset
    parent: Synset


@dataclass(frozen=True)
class Words:
    """Questions about nouns.

    Attributes:
        wordnet: folder of the unpacked package.
        seed: of the training file; the held-out file is the same for every seed.
        share: of the concepts that is held out.
        limit: only so many nouns of each side, the ones that texts use most; None for all.
    """

    wordnet: Path
    seed: int = 0
    share: float = 0.15
    limit: int | None = None
    name: str = "words"

    def describe(self) -> Mapping[str, object]:
        """All that decides what is made."""
        plain = {name: vars(self)[name] for name in ("seed", "share", "limit")}
        return {"version": VERSION, **plain, "packages": [WORDNET.describe()]}

    def items(self) -> Sequence[str]:
        """Portions of the nouns of each side."""
        return [
            f"{split}/{number:04d}"
            for split in SPLITS
            for number in range(-(-len(self._nouns(split)) // PORTION))
        ]

    def make(self, item: str, album: Album, rng: random.Random) -> Iterator[Sample]:
        """Make the questions about some nouns."""
        wordnet = _open(self.wordnet)
        for split in SPLITS:
            if not item.startswith(f"{split}/"):
                continue
            nouns = self._nouns(split)
            start = int(item.rpartition("/")[2]) * PORTION
            for number in range(start, min(start + PORTION, len(nouns))):
                seed = self.seed if split == "train" else "held out"
                drawn = random.Random(f"{seed} words {nouns[number].word}")
                for asked in _ask(nouns, number, split, wordnet, drawn):
                    yield Sample(f"{split}.jsonl", _to_record(asked, nouns[number]))

    def _nouns(self, split: Split) -> Sequence[Noun]:
        found = _used_nouns(self.wordnet, self.share)[split]
        return found if self.limit is None else found[: self.limit]


DEFAULT = Words(Path())


@cache
def _open(folder: Path) -> WordNet:
    return WordNet(folder / FOLDER)


@cache
def _used_nouns(folder: Path, share: float) -> Mapping[Split, Sequence[Noun]]:
    """Nouns that occur in tagged texts and are no names, the most frequent first, by split."""
    wordnet = _open(folder)
    found: dict[Split, list[Noun]] = {"train": [], "test": []}
    # Nouns with more tagged senses are the more frequent ones.
    for word, senses in sorted(wordnet.nouns(), key=lambda pair: (-pair[1], pair[0])):
        if senses == 0 or not PLAIN.fullmatch(word):
            continue
        sense = wordnet.senses(word)[0]
        if word not in sense.words or not sense.parents:
            continue
        noun = Noun(word, sense, wordnet.kinds(sense)[0])
        if held_out(key_of(sense.words[0], wordnet), share):
            found["test"].append(noun)
        elif not any(held_out(key, share) for key in _keys(word, wordnet)):
            found["train"].append(noun)
    return found


def _keys(word: str, wordnet: WordNet) -> set[str]:
    """The keys of all meanings of a noun: a drawing may show any of them."""
    return {key_of(name, wordnet) for name in (word, *(s.words[0] for s in wordnet.senses(word)))}


def _ask(
    nouns: Sequence[Noun], number: int, split: Split, wordnet: WordNet, rng: random.Random
) -> Iterator[Asked]:
    """The questions about one noun."""
    one = nouns[number]
    others = rng.sample(nouns, min(3 * CHOICES, len(nouns)))
    words = [other.word for other in others if other.sense != one.sense]
    text = rng.choice(WHICH).format(one.sense.meaning, _one_of(one.word, words, rng))
    yield Asked(text, one.word, "word")
    above = {kind.offset for kind in wordnet.kinds(one.sense)}
    kinds = [other.parent.words[0] for other in others if other.parent.offset not in above]
    right = one.parent.words[0]
    wrong = [kind for kind in kinds if kind != right]
    yield Asked(rng.choice(KIND).format(one.word, _one_of(right, wrong, rng)), right, "kind")
    # The kind of the noun halfway around: every kind is asked about as often rightly as wrongly.
    far = nouns[(number + len(nouns) // 2) % len(nouns)].parent
    if far.offset not in above:
        yield Asked(rng.choice(IS_KIND).format(one.word, right), "yes", "yes-no")
        yield Asked(rng.choice(IS_KIND).format(one.word, far.words[0]), "no", "yes-no")
    if split == "train":
        yield Asked(rng.choice(MEANS).format(one.word), one.sense.meaning, "meaning")
        same = [word for word in one.sense.words if word != one.word and PLAIN.fullmatch(word)]
        if same:
            yield Asked(rng.choice(SAME).format(one.word), same[0], "synonym")


def _one_of(right: str, wrong: Sequence[str], rng: random.Random) -> str:
    """The right option among wrong ones, as 'a, b or c'."""
    options = [right, *list(dict.fromkeys(wrong))[: CHOICES - 1]]
    rng.shuffle(options)
    return one_of(options)


def _to_record(asked: Asked, noun: Noun) -> Record:
    return Record(
        asked.messages(),
        source=WORDNET.source,
        license=WORDNET.license,
        metadata={"file": f"{FOLDER}/data.noun", "word": noun.word, "synset": noun.sense.offset},
    )
