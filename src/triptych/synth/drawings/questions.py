"""Questions about a drawing whose answers are known."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from triptych.synth.drawings.catalogue import Role, rotate
from triptych.synth.drawings.drawing import Drawing
from triptych.synth.drawings.kinds import KINDS
from triptych.synth.question import Asked, one_of
from triptych.synth.words.wordnet import WordNet

CHOICES = 4
"""Things that one chooses among."""
NAME = ("What is this?", "What does the picture show?", "Name what is shown.")
KIND = ("Which is it: {}?", "What kind of thing is this: {}?")
CHOOSE = ("Which one is shown: {}?", "Choose what the picture shows: {}.")
SHOWS = ("Does this show: {}?", "Is this: {}?")
TYPE = ("Is this a kind of {}?",)
MEANING = ('Does "{}" describe what is shown?',)
TAG = ('Does the word "{}" fit the picture?',)
NAMED: frozenset[Role] = frozenset({"train", "design", "style"})
"""Where things are asked by name: what was never seen cannot be named."""


@dataclass(frozen=True)
class Wrong:
    """Wrong values for the drawings of a role by their index, as ``rotate`` finds them."""

    names: Mapping[int, str]
    types: Mapping[int, str]
    meanings: Mapping[int, str]
    tags: Mapping[int, str]


def find_wrong(drawings: Sequence[Drawing], wordnet: WordNet) -> Wrong:
    """A wrong name, type, meaning and tag for each drawing of a role."""
    types = {one.concept.key: _types(one, wordnet) for one in drawings}
    keys = {one.name: one.concept.key for one in drawings}

    def same_name(other: str, one: Drawing) -> bool:
        # A red apple is an apple; but two emoji of one concept have different names.
        alike = keys[other] == one.concept.key
        return other == one.name or (
            alike and (one.loose or other in one.name or one.name in other)
        )

    def same_type(other: str, one: Drawing) -> bool:
        return other in types[one.concept.key]

    return Wrong(
        rotate(drawings, 0, lambda one: one.name, same_name),
        rotate(drawings, 0.5, lambda one: _type(one, wordnet), same_type),
        rotate(drawings, 0, _meaning, lambda other, one: other == _meaning(one)),
        rotate(drawings, 0.3, _tag, lambda other, one: other in (*one.tags, one.name)),
    )


def ask(
    drawings: Sequence[Drawing],
    index: int,
    role: Role,
    wrong: Wrong,
    wordnet: WordNet,
    rng: random.Random,
) -> Iterator[Asked]:
    """All questions about one drawing of a role."""
    one = drawings[index]
    if role in NAMED:
        yield Asked(rng.choice(NAME), one.name, "name")
    if one.kind is not None:
        kinds = [KINDS[other.kind].phrase for other in drawings if other.kind is not None]
        yield from _choose(KIND, KINDS[one.kind].phrase, kinds, "kind", rng)
    alike = [other.name for other in drawings if other.group == one.group]
    if len(set(alike)) < CHOICES:
        alike = [other.name for other in drawings]
    yield from _choose(CHOOSE, one.name, alike, "choose", rng)
    pairs: Sequence[tuple[Sequence[str], Mapping[int, str], str | None, str]] = (
        (SHOWS, wrong.names, one.name, "yes-no"),
        (TYPE, wrong.types, _type(one, wordnet), "type"),
        (MEANING, wrong.meanings, _meaning(one), "meaning"),
        (TAG, wrong.tags, _tag(one), "tag"),
    )
    for texts, others, right, category in pairs:
        if right is not None and index in others:
            text = rng.choice(texts)
            yield Asked(text.format(right), "yes", category)
            yield Asked(text.format(others[index]), "no", category)


def _choose(
    texts: Sequence[str], right: str, among: Sequence[str], category: str, rng: random.Random
) -> Iterator[Asked]:
    """One of several; the others come as often as they are right elsewhere."""
    others: set[str] = set()
    left = [other for other in among if other != right]
    while left and len(others) < CHOICES - 1:
        found = rng.choice(left)
        others.add(found)
        left = [other for other in left if other != found]
    options = [right, *sorted(others)]
    rng.shuffle(options)
    if others:
        yield Asked(rng.choice(texts).format(one_of(options)), right, category)


def _types(drawing: Drawing, wordnet: WordNet) -> frozenset[str]:
    sense = drawing.concept.sense
    if sense is None:
        return frozenset()
    return frozenset(word for kind in (sense, *wordnet.kinds(sense)) for word in kind.words)


def _type(drawing: Drawing, wordnet: WordNet) -> str | None:
    sense = drawing.concept.sense
    return wordnet.kinds(sense)[0].words[0] if sense and sense.parents else None


def _meaning(drawing: Drawing) -> str | None:
    return drawing.concept.sense.meaning if drawing.concept.sense else None


def _tag(drawing: Drawing) -> str | None:
    """A word that fits and does not stand in the name."""
    words = drawing.name.lower().split()
    fitting = (tag for tag in drawing.tags if tag.isalpha() and len(tag) > 3 and tag not in words)
    return next(fitting, None)
