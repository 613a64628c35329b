"""Where a record made of several things comes from, and under what terms."""

import re
from collections.abc import Iterable, Sequence

_AND_OUTSIDE_BRACKETS = re.compile(r" AND (?![^(]*\))")


def join_sources(sources: Iterable[str]) -> str:
    """All sources, each once; those that were joined before are taken apart."""
    return "; ".join(sorted({part for one in sources for part in one.split("; ")}))


def join_licenses(licenses: Iterable[str]) -> str:
    """The SPDX expression of all licences together, each once.

    A choice between licences stays one term, in brackets where others stand beside it.
    """
    terms = sorted({term for one in licenses for term in _terms(one)})
    return terms[0].strip("()") if len(terms) == 1 else " AND ".join(terms)


def _terms(expression: str) -> Sequence[str]:
    parts = _AND_OUTSIDE_BRACKETS.split(expression)
    chooses = any(" OR " in part and not part.startswith("(") for part in parts)
    return [f"({expression})"] if chooses else parts
