"""What kinds of things there are, and the one key that joins the names that sources use.

A concept decides on which side of the split a thing is, for all sources and styles: the emoji
U+1F34E "red apple", the clip art "An Apple" and the noun "apple" have one key, which is a word of
WordNet's meaning of the noun head; synonyms such as "car" and "automobile" share it. A label
without a noun keeps its own words as the key.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from triptych.synth.words.wordnet import Synset, WordNet

THING = ("artifact", "natural object", "organism", "food", "body part", "celestial body", "person")


@dataclass(frozen=True)
class Kind:
    """A kind of thing that everything shown belongs to.

    Attributes:
        phrase: as it stands in questions and answers.
        anchors: words of WordNet of which a noun's meaning must be a kind to be this kind.
    """

    phrase: str
    anchors: tuple[str, ...] = THING


KINDS: Mapping[str, Kind] = {
    "animal": Kind("an animal", ("animal",)),
    "body": Kind("a part of the body", ("body part", "external body part", "process")),
    "building": Kind("a building", ("structure", "building complex", "facility")),
    "clothing": Kind("clothing", ("clothing", "covering", "jewelry", "footwear", "bag")),
    "device": Kind("a device", ("instrumentality",)),
    "face": Kind("a face"),
    "food": Kind("food or drink", ("food", "plant part")),
    "game": Kind("a game or toy", ("artifact", "game")),
    "household": Kind("a household thing", ("artifact",)),
    "music": Kind("a thing of music", ("musical instrument", "device", "musical notation")),
    "office": Kind("an office thing", ("artifact", "written communication", "sheet")),
    "person": Kind("a person", ("person",)),
    "place": Kind("a place", ("location", "geological formation", "body of water", "structure")),
    "plant": Kind("a plant", ("plant", "plant organ", "plant part", "organism")),
    "sky": Kind("a thing of the sky or the weather", ("phenomenon", "celestial body", "matter")),
    "sport": Kind("a thing of sport", ("artifact", "athletic game", "athlete")),
    "tool": Kind("a tool", ("instrumentality",)),
    "transport": Kind("a means of transport", ("conveyance", "vehicle", "craft")),
}

SUBGROUPS: Mapping[str, str] = {
    "animal": "animal",
    "plant": "plant",
    "food": "food",
    "drink": "food",
    "face": "face",
    "place-building": "building",
    "place-religious": "building",
    "place-geographic": "place",
    "transport-water": "transport",
    "transport-air": "transport",
    "sky": "sky",
    "sport": "sport",
    "musical-instrument": "music",
    "clothing": "clothing",
    "tool": "tool",
    "office": "office",
    "writing": "office",
    "book-paper": "office",
    "computer": "device",
    "phone": "device",
    "household": "household",
    "person-role": "person",
    "person-activity": "person",
    "person-gesture": "person",
    "person-sport": "person",
    "hand": "body",
    "body-parts": "body",
}
"""Kinds by the beginning of the name of an emoji's subgroup; others are of no kind."""

FOLDERS: Mapping[str, str] = {
    "animals": "animal",
    "plants": "plant",
    "food": "food",
    "buildings/furniture": "household",
    "buildings": "building",
    "transportation": "transport",
    "vehicles": "transport",
    "people/clothing": "clothing",
    "clothes": "clothing",
    "people/bodypart": "body",
    "people": "person",
    "tools": "tool",
    "recreation/music": "music",
    "hobbies/music": "music",
    "recreation/sports": "sport",
    "sports": "sport",
    "recreation/toys": "game",
    "computer/hardware": "device",
    "electronics": "device",
    "office": "office",
    "household": "household",
}
"""Kinds by the beginning of the folder of a piece of clip art or a stamp."""

PLAIN = re.compile(r"[^a-z0-9]+")
VARIANT = re.compile(r"^(persons?|people|man|men|woman|women|family)\b(?= |:).*$")
CLOCK = re.compile(r"^\w+(.o.clock|-thirty)$")


@dataclass(frozen=True)
class Concept:
    """What is shown, as the split sees it.

    Attributes:
        key: the same for every name and picture of it.
        sense: its meaning, where WordNet has one that fits its kind.
    """

    key: str
    sense: Synset | None


def kind_of(name: str, table: Mapping[str, str]) -> str | None:
    """The kind whose beginning is the longest one of ``name``."""
    fitting = [start for start in table if name.startswith(start)]
    return table[max(fitting, key=len)] if fitting else None


def concept_of(label: str, kind: str | None, wordnet: WordNet) -> Concept:
    """The concept that a label names.

    Args:
        label: such as 'red apple' or 'bowl with spoon'.
        kind: of the thing, which chooses among the meanings of a noun.
        wordnet: the nouns.
    """
    subject = VARIANT.sub(r"\1", CLOCK.sub("clock", label.lower()))
    noun = wordnet.head(subject)
    if noun is None:
        return Concept(PLAIN.sub(" ", label.lower()).strip(), None)
    sense = fitting_sense(noun, KINDS[kind].anchors if kind else THING, wordnet)
    word = sense.words[0] if sense else noun
    return Concept(key_of(word, wordnet), sense)


def fitting_sense(noun: str, anchors: Sequence[str], wordnet: WordNet) -> Synset | None:
    """The most frequent meaning of a noun that is a kind of one of ``anchors``."""
    for sense in wordnet.senses(noun):
        if any(kind.words[0] in anchors for kind in (sense, *wordnet.kinds(sense))):
            return sense
    return None


def key_of(word: str, wordnet: WordNet) -> str:
    """The key of a noun: 'hand' for 'hands', although WordNet has both."""
    plain = PLAIN.sub(" ", word.lower()).strip()
    if plain.endswith("s") and not plain.endswith("ss") and plain[:-1] in wordnet:
        return plain[:-1]
    return plain
