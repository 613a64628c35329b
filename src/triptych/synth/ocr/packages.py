"""PDF files that come in packages, and under which licence."""

from triptych.synth.ocr.pages import Collection
from triptych.synth.packages import Package, Shelf

TEXLIVE = Package(
    "deb",
    "texlive-latex-recommended-doc",
    "2022.20230122-3",
    "8bea1f81bf50354fa4f3046c2dbb82efba9b8520aca0b2ab12eed18554a66c11",
    "LPPL-1.3c",
    50_302_432,
)
R_MANUALS = Package(
    "deb",
    "r-doc-pdf",
    "4.2.2.20221110-2",
    "beb104ad5818d261f280a868294645ca31d7c63365f2c9a55aa3ca9aad5aa71d",
    "GPL-2",
    9_846_552,
    copyleft=True,
)
LATEX = "usr/share/doc/texlive-doc/latex"
OTHER_TERMS = tuple(f"{LATEX}/{name}/" for name in ("beamer", "mdwtools", "rcs", "translator"))
"""Parts of the LaTeX documentation under the GPL or the FDL; the rest is mostly under the LPPL."""


def collections(shelf: Shelf, *, copyleft: bool) -> tuple[Collection, ...]:
    """The packaged PDF files; those whose licence must be kept only where that is wanted."""
    texlive = shelf.open(TEXLIVE)
    plan = TEXLIVE.describe()
    found = [Collection(TEXLIVE.source, TEXLIVE.license, texlive, plan, without=OTHER_TERMS)]
    if copyleft:
        found.append(Collection(TEXLIVE.source, "GPL or GFDL", texlive, plan, only=OTHER_TERMS))
        manuals = shelf.open(R_MANUALS)
        found.append(Collection(R_MANUALS.source, R_MANUALS.license, manuals, R_MANUALS.describe()))
    return tuple(found)


def used(*, copyleft: bool) -> tuple[Package, ...]:
    """The packages that ``collections`` opens."""
    return (TEXLIVE, R_MANUALS) if copyleft else (TEXLIVE,)
