"""A drawing of one thing, wherever it comes from."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from triptych.synth.drawings.kinds import Concept

METADATA = re.compile(rb"<metadata.*?</metadata>|<!--.*?-->|\s+", re.DOTALL)


@dataclass(frozen=True)
class Drawing:
    """One drawing.

    Attributes:
        name: what it shows, as one says it: 'red apple'.
        concept: what decides the split.
        kind: a key of ``kinds.KINDS``, or None.
        group: things of one group are alike, and are asked about together.
        style: who drew it: one style draws a thing in one way.
        file: where it stands in the package.
        source: name and version of the package.
        license: of the drawing.
        art: an SVG as text, or the path of an SVG or image file.
        tags: further words that fit it.
        loose: whether it may stand anywhere on its sheet, so that it is cut out first.
    """

    name: str
    concept: Concept
    kind: str | None
    group: str
    style: str
    file: str
    source: str
    license: str
    art: str | Path = field(repr=False)
    tags: tuple[str, ...] = ()
    loose: bool = False

    @property
    def content(self) -> bytes:
        """What is drawn, without spaces and metadata: equal for copies of a drawing."""
        raw = self.art.encode() if isinstance(self.art, str) else self.art.read_bytes()
        vector = isinstance(self.art, str) or self.art.suffix == ".svg"
        return METADATA.sub(b"", raw) if vector else raw
