"""Draw samples of a built data set: pictures with their question and answer.

    python docs/figures/samples.py data/drawings docs/figures/drawings.png

Takes the same samples each time: the first of every so many records of each file.
"""

import json
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image, ImageDraw, ImageFont

COLUMNS = 6
PER_FILE = 6
CELL, TEXT = 176, 62
PAPER, INK, FAINT = "#ffffff", "#222222", "#777777"


def samples(path: Path) -> Iterator[Mapping[str, Any]]:
    """Records from all over a file, none with a picture that was shown before."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    seen: set[str] = set()
    taken = 0
    for number in range(len(records)):
        # 7919 is a prime: steps of it come to every record.
        record = records[7919 * number % len(records)]
        shown = pictures(record)
        if shown and seen.isdisjoint(shown) and taken < PER_FILE:
            seen.update(shown)
            taken += 1
            yield record


def pictures(record: Mapping[str, Any]) -> list[str]:
    """The image paths of a record."""
    parts = [part for one in record["messages"] for part in one["content"]]
    return [part["image"] for part in parts if isinstance(part, dict) and part["type"] == "image"]


def words(record: Mapping[str, Any]) -> str:
    """The first question and its answer, or the beginning of a document."""
    first = record["messages"][0]["content"]
    text = " ".join(part["text"] for part in first if part["type"] == "text")
    answer = "\n"
    if len(record["messages"]) > 1:
        answer += f"> {record['messages'][1]['content'].splitlines()[0]}"
    return "\n".join(textwrap.wrap(text, 30)[:3]) + answer


def draw(folder: Path) -> Image.Image:
    """One row of samples for each file."""
    rows = [(path, list(samples(path))) for path in sorted(folder.glob("t*.jsonl"))]
    rows = [(path, found) for path, found in rows if found]
    height = sum(18 + CELL + TEXT for _ in rows)
    sheet = Image.new("RGB", (COLUMNS * CELL, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.truetype(
        str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), 10
    )
    for row, (path, found) in enumerate(rows):
        top = row * (18 + CELL + TEXT)
        pen.text((4, top + 3), path.name, FAINT, font)
        for column, record in enumerate(found[:COLUMNS]):
            pasted = thumbnails(folder, pictures(record))
            sheet.paste(pasted, (column * CELL + 4, top + 18))
            pen.multiline_text((column * CELL + 4, top + 18 + CELL - 6), words(record), INK, font)
    return sheet


def thumbnails(folder: Path, names: Sequence[str]) -> Image.Image:
    """The pictures of a record side by side, in rows of two where there are several."""
    side = CELL - 12
    cell = side if len(names) == 1 else side // 2
    sheet = Image.new("RGB", (side, side), PAPER)
    for number, name in enumerate(names[:4]):
        picture = Image.open(folder / name).convert("RGB")
        picture.thumbnail((cell - 2, cell - 2))
        sheet.paste(picture, (number % 2 * cell, number // 2 * cell))
    return sheet


if __name__ == "__main__":
    draw(Path(sys.argv[1])).quantize(128).save(sys.argv[2], optimize=True)
