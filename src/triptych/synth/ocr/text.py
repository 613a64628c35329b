"""Cleaning what the text layer of a PDF says, and telling which pages say what is printed."""

import unicodedata

BREAKS = frozenset({0x0002, 0xFFFE})
"""What pdfium writes for a hyphen that breaks a word at the end of a line."""
HYPHENS = dict.fromkeys((*BREAKS, 0x00AD), "-")
FEWEST, MOST = 300, 4500
"""Characters of a page that is worth reading and is no table of numbers in tiny print."""
ASCII_SHARE = 0.97
"""Pages below it are mathematics (which text layers bring out of order) or fonts without names."""


def clean(word: str) -> str:
    """A word as it is printed: breaks as hyphens, compatibility forms (ligatures) as letters."""
    plain = unicodedata.normalize("NFKC", word.translate(HYPHENS))
    kept = (letter for letter in plain if unicodedata.category(letter)[0] != "C")
    return "".join(" ".join("".join(kept).split()))


def why_unusable(text: str) -> str | None:
    """Why a page with this text is left out; None when it is used."""
    length = sum(not letter.isspace() for letter in text)
    if length < FEWEST:
        return f"has {length} characters, fewer than {FEWEST}"
    if length > MOST:
        return f"has {length} characters, more than {MOST}"
    share = sum(letter.isascii() for letter in text) / len(text)
    if share < ASCII_SHARE:
        return f"only {share:.0%} of its characters are ASCII: mathematics or unnamed glyphs"
    return None
