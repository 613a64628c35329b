"""Scores of an answer: exact match, and ANLS for text that was read.

Exact match follows the normalisation of the VQA evaluation (Antol et al. 2015, VQA v2 server).
"""

import re
from itertools import combinations

from rapidfuzz.distance import Levenshtein

ANLS_LEAST = 0.5
"""Answers that are not more alike than this have nothing in common (Biten et al., 2019)."""
ARTICLES = frozenset({"a", "an", "the"})

_COUNTED = "zero one two three four five six seven eight nine ten"
NUMBERS = {word: str(value) for value, word in enumerate(_COUNTED.split())} | {"none": "0"}

# Words that are something else without their apostrophe (its, were, well, ...) are left out.
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's i'd've i'm i've isn't it'd it'd've it'll let's
    ma'am might've mightn't mightn't've must've mustn't needn't not've o'clock oughtn't shan't
    she'd've she's should've shouldn't shouldn't've somebody'd somebody'll somebody's someone'd
    someone'll someone's something'd something'll that'd that'll that's there'd there'd've there're
    there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll
    what're what's what've when's where'd where's where've who'd who'd've who'll who's who've
    why'll why're why's won't would've wouldn't wouldn't've y'all y'all'd've you'd you'd've you'll
    you're you've
"""


def _spellings(word: str) -> list[str]:
    """``word`` with one or more of its apostrophes left out."""
    places = [at for at, letter in enumerate(word) if letter == "'"]
    return [
        "".join(letter for at, letter in enumerate(word) if at not in dropped)
        for size in range(1, len(places) + 1)
        for dropped in combinations(places, size)
    ]


CONTRACTIONS = {spelling: word for word in _CONTRACTIONS.split() for spelling in _spellings(word)}

_MARKS = """;/[]"{}()=+\\_-><@`,?!"""
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")


def normalise(answer: str) -> str:
    """Bring an answer to the form in which answers are compared.

    Lower case; a punctuation mark goes if it stands beside a space anywhere in the answer or if
    the answer has a number like 1,000, else it becomes a space; periods go unless a digit follows;
    number words up to ten become digits; articles go; contractions get their apostrophes.
    ``"The two-tone, isnt it?"`` becomes ``"2 tone isn't it"``. An answer of which nothing would be
    left (the option "A") keeps its words.
    """
    text = " ".join(answer.lower().split())
    words = [NUMBERS.get(word, word) for word in _PERIOD.sub("", _strip_marks(text)).split()]
    kept = [word for word in words if word not in ARTICLES] or words
    return " ".join(CONTRACTIONS.get(word, word) for word in kept)


def _strip_marks(text: str) -> str:
    joined = _COMMA_IN_NUMBER.search(text) is not None
    stripped = text
    for mark in _MARKS:
        loose = f"{mark} " in text or f" {mark}" in text
        stripped = stripped.replace(mark, "" if loose or joined else " ")
    return stripped


def exact_match(answer: str, expected: str) -> bool:
    """Whether two answers are equal after ``normalise``."""
    return normalise(answer) == normalise(expected)


def anls(answer: str, expected: str) -> float:
    """Give the normalised Levenshtein similarity of two answers, 0 below one half.

    What is averaged in ANLS, the score of reading benchmarks such as DocVQA (Biten et al., 2019):
    one minus the edit distance over the longer length. Case and the amount of space do not count.
    """
    sides = (" ".join(side.casefold().split()) for side in (answer, expected))
    similarity = Levenshtein.normalized_similarity(*sides)
    return similarity if similarity > ANLS_LEAST else 0.0
