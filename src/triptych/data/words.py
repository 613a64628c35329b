"""Values of bad records in words, for messages."""

import difflib
from collections.abc import Mapping, Sequence


def nearest(word: str, known: Sequence[str], plural: str) -> str:
    """A hint at the known word that is meant, or at all of them."""
    close = difflib.get_close_matches(word[:64].lower(), known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"known {plural}: {', '.join(known)}"


def short(value: object) -> str:
    """A value in at most 60 characters of ASCII."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


def kind(value: object) -> str:
    """A JSON value in words, short enough for a message."""
    if value is None:
        return "missing or null"
    if isinstance(value, bool | int | float):
        return f"{short(value)} (a {'boolean' if isinstance(value, bool) else 'number'})"
    if isinstance(value, str):
        return f"the text {short(value)}"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, Mapping):
        keys = ", ".join(short(key) for key in list(value)[:4])
        return f"an object with the keys {keys}" if keys else "an empty object"
    return f"of type {type(value).__name__}"
