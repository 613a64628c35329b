"""WordNet's nouns, read from its own files (Debian package `wordnet-base`).

Only what the builders need: which nouns there are, what the first sense of one means, and what it
is a kind of. The file format is that of the manual page wndb(5WN).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from triptych.errors import DataError

ENDINGS = (
    ("ches", "ch"),
    ("shes", "sh"),
    ("ses", "s"),
    ("xes", "x"),
    ("zes", "z"),
    ("men", "man"),
    ("ies", "y"),
    ("s", ""),
)
"""How a plural becomes singular, in this order; what results must be a noun of WordNet."""
WORDS = re.compile(r"[a-z][a-z'.]*")
BREAKS = frozenset(
    ("and", "at", "behind", "by", "for", "from", "in", "of", "on", "over", "to", "under", "with")
)
"""What follows one of these does not say what a thing is: a bowl *with* spoon."""
LONGEST = 4
"""Words of the longest noun that is looked for."""
KIND = ("@", "@i")


@dataclass(frozen=True)
class Synset:
    """One meaning.

    Attributes:
        offset: its byte in data.noun, which names it.
        words: its words, the most frequent first.
        meaning: the definition, without the examples.
        parents: offsets of what it is a kind of.
    """

    offset: int
    words: tuple[str, ...]
    meaning: str
    parents: tuple[int, ...]


class WordNet:
    """The nouns of a WordNet folder (index.noun, data.noun, noun.exc, index.adj, ...).

    Raises:
        DataError: a file is missing, or is not WordNet's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._nouns = dict(self._index("noun"))
        pairs = (line.split() for line in self._lines("noun.exc"))
        self._irregular = {pair[0]: pair[1] for pair in pairs if len(pair) > 1}
        self._synsets: dict[int, Synset] = {}

    def __contains__(self, lemma: str) -> bool:
        return lemma.replace(" ", "_") in self._nouns

    def nouns(self) -> Iterator[tuple[str, int]]:
        """Every noun with the number of its senses that occur in WordNet's tagged texts."""
        for lemma, rest in self._nouns.items():
            yield lemma.replace("_", " "), int(rest[int(rest[2]) + 4])

    def senses(self, lemma: str) -> list[Synset]:
        """The meanings of a noun, the most frequent first."""
        rest = self._nouns[lemma.replace(" ", "_")]
        return [self._synset(int(offset)) for offset in rest[-int(rest[1]) :]]

    def kinds(self, sense: Synset) -> list[Synset]:
        """What a meaning is a kind of: the nearest first, without itself."""
        found: dict[int, Synset] = {}
        waiting = list(sense.parents)
        while waiting:
            offset = waiting.pop(0)
            if offset not in found:
                found[offset] = self._synset(offset)
                waiting += found[offset].parents
        return list(found.values())

    def singular(self, word: str) -> str | None:
        """The noun that ``word`` is, or is the plural of; None when it is none."""
        key = word.replace(" ", "_")
        if key in self._irregular and self._irregular[key] in self._nouns:
            return self._irregular[key].replace("_", " ")
        if key in self._nouns:
            return word
        for ending, instead in ENDINGS:
            base = key.removesuffix(ending) + instead
            if key.endswith(ending) and len(base) > 2 and base in self._nouns:
                return base.replace("_", " ")
        return None

    def head(self, label: str) -> str | None:
        """The noun that says what ``label`` names: the longest one before the first preposition.

        Returns:
            'ice cream' of 'soft ice cream', 'bowl' of 'bowl with spoon'; None when there is none.
        """
        words = WORDS.findall(label.lower().replace("-", " "))
        stop = next((n for n, word in enumerate(words) if n and word in BREAKS), len(words))
        for start in range(max(0, stop - LONGEST), stop):
            found = self.singular(" ".join(words[start:stop]))
            if found is not None:
                return found
        return None

    def is_word(self, word: str) -> bool:
        """Whether WordNet knows a word as any part of speech."""
        return self.singular(word) is not None or word in self._others or word in BREAKS

    @cached_property
    def _others(self) -> frozenset[str]:
        return frozenset(lemma for part in ("adj", "verb", "adv") for lemma, _ in self._index(part))

    @cached_property
    def _data(self) -> bytes:
        return self._path("data.noun").read_bytes()

    def _synset(self, offset: int) -> Synset:
        if offset not in self._synsets:
            line = self._data[offset : self._data.index(b"\n", offset)].decode("utf-8")
            self._synsets[offset] = _parse(line, self.folder / "data.noun")
        return self._synsets[offset]

    def _index(self, part: str) -> Iterator[tuple[str, Sequence[str]]]:
        for line in self._lines(f"index.{part}"):
            # The licence on top is indented.
            if line and line[0] != " ":
                lemma, *rest = line.split()
                yield lemma, rest

    def _lines(self, name: str) -> list[str]:
        return self._path(name).read_text(encoding="utf-8").splitlines()

    def _path(self, name: str) -> Path:
        path = self.folder / name
        if not path.is_file():
            raise DataError(f"{path}: no such file; {self.folder} is not a WordNet folder")
        return path


def _parse(line: str, path: Path) -> Synset:
    try:
        facts, _, gloss = line.partition(" | ")
        fields = facts.split()
        count = int(fields[3], 16)
        words = tuple(word.replace("_", " ") for word in fields[4 : 4 + 2 * count : 2])
        pointers = fields[5 + 2 * count :]
        parents = tuple(
            int(pointers[n + 1])
            for n in range(0, 4 * int(fields[4 + 2 * count]), 4)
            if pointers[n] in KIND
        )
        return Synset(int(fields[0]), words, _meaning(gloss), parents)
    except (ValueError, IndexError):
        raise DataError(f"{path}: not a line of WordNet's: {line[:60]!r}") from None


def _meaning(gloss: str) -> str:
    """The definition before its examples, which stand in quotation marks behind semicolons."""
    return re.split(r'[;:]\s*"', gloss.strip())[0].strip()
