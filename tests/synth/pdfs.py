"""Small PDF files with a text layer, written by hand."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

WORDS = (
    "amber", "basin", "cedar", "delta", "ember", "fable", "grove", "heron", "ivory", "jolly",
    "kayak", "lemon", "maple", "noble", "ocean", "pearl", "quiet", "river", "stone", "tulip",
    "umbra", "vivid", "willow", "xenon", "yield", "zebra", "anchor", "bridge", "candle",
    "dragon", "engine", "forest", "garden", "harbor", "island", "jungle", "kettle", "ladder",
    "meadow", "needle", "orange",
)  # fmt: skip


@dataclass(frozen=True)
class Text:
    """A line of print: the start of its base line in points from below, and its size."""

    x: float
    y: float
    text: str
    size: float = 12
    hidden: bool = False


@dataclass(frozen=True)
class Sheet:
    """A page; ``crop`` is left, bottom, right and top of what is shown."""

    texts: Sequence[Text]
    rotate: int = 0
    crop: tuple[float, float, float, float] = (0, 0, 400, 600)
    media: tuple[float, float] = (400, 600)


def write_pdf(path: Path, sheets: Sequence[Sheet]) -> Path:
    """Write the pages in Helvetica."""
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(sheets)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(sheets)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for number, sheet in enumerate(sheets):
        stream = "\n".join(map(_draw, sheet.texts))
        width, height = sheet.media
        objects += [
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {width} {height}] "
            f"/CropBox [{' '.join(map(str, sheet.crop))}] /Rotate {sheet.rotate} "
            f"/Resources << /Font << /F 3 0 R >> >> /Contents {5 + 2 * number} 0 R >>",
            f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream",
        ]
    data, places = b"%PDF-1.4\n", []
    for number, one in enumerate(objects, 1):
        places.append(len(data))
        data += f"{number} 0 obj\n{one}\nendobj\n".encode("latin-1")
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    data += (
        f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
        f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(data)}\n%%EOF\n"
    ).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def prose(seed: int, lines: int = 30, *, hidden: bool = False) -> Sheet:
    """A page with a title and lines of six words, different for every seed."""
    texts = [Text(40, 550, f"Chapter {seed} of the book", 20, hidden)]
    for line in range(lines):
        start = seed * 7 + line * 5
        words = " ".join(WORDS[(start + 3 * k * k + k) % len(WORDS)] for k in range(6))
        texts.append(Text(40, 520 - 15 * line, f"{words} {seed * 100 + line}", 12, hidden))
    return Sheet(texts)


def _draw(text: Text) -> str:
    safe = text.text.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")
    mode = 3 if text.hidden else 0
    return f"BT {mode} Tr /F {text.size} Tf {text.x} {text.y} Td ({safe}) Tj ET"
