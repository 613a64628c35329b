"""Draw what a built folder of pages asks: regions, lines in boxes, words to be found, line crops.

python docs/figures/pages.py data/pdf docs/figures/pdf.png
"""

import json
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from triptych.data.boxes import Frame, read_boxes

PAGE, TEXT, GAP = 420, 120, 12
KINDS = {"title": "#2ca02c", "text": "#1f77b4", "list": "#ff7f0e", "figure": "#9467bd"}
PAPER, INK = "#ffffff", "#222222"


def shown(folder: Path, name: str, number: int) -> tuple[Image.Image, list[tuple[str, str]]]:
    """The picture of a record, and its rounds."""
    lines = (folder / name).read_text(encoding="utf-8").splitlines()
    record: Mapping[str, Any] = json.loads(lines[number % len(lines)])
    messages = record["messages"]
    image = messages[0]["content"][0]["image"]
    questions = [
        one["content"] if isinstance(one["content"], str) else one["content"][-1]["text"]
        for one in messages[::2]
    ]
    answers = [one["content"] for one in messages[1::2]]
    picture = Image.open(folder / image).convert("RGB")
    return picture, list(zip(questions, answers, strict=True))


def frame(pen: ImageDraw.ImageDraw, text: str, size: tuple[int, int], colour: str) -> None:
    for left, top, right, bottom in read_boxes(text, Frame(*size)):
        pen.rectangle((left - 2, top - 2, right + 2, bottom + 2), outline=colour, width=3)


def panel(folder: Path, name: str, number: int) -> Image.Image:
    """One record: its boxes drawn on its picture, its first rounds below."""
    picture, rounds = shown(folder, name, number)
    pen = ImageDraw.Draw(picture)
    for question, answer in rounds:
        if "layout" in name:
            for line in answer.splitlines():
                kind, _, boxes = line.partition(": ")
                frame(pen, boxes, picture.size, KINDS[kind.split()[-1]])
        elif "line" not in name:
            frame(pen, answer if "place" in name else question, picture.size, "#d62728")
    picture.thumbnail((PAGE, PAGE * 3 // 2))
    sheet = Image.new("RGB", (PAGE + GAP, PAGE * 3 // 2 + TEXT), PAPER)
    sheet.paste(picture, (0, 18))
    font = ImageFont.truetype(
        str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), 11
    )
    pen = ImageDraw.Draw(sheet)
    pen.text((0, 2), name, INK, font)
    lines = [f"{question} > {answer}" for question, answer in rounds[:3]]
    text = "\n".join("\n".join(textwrap.wrap(line, 62)[:2]) for line in lines)
    pen.multiline_text((0, picture.height + 24), text, INK, font)
    return sheet


def main() -> None:
    """Write the figure."""
    folder, target = Path(sys.argv[1]), Path(sys.argv[2])
    names = ("train-layout.jsonl", "train-place.jsonl", "test-box.jsonl", "train-line.jsonl")
    panels = [panel(folder, name, 5) for name in names]
    whole = Image.new("RGB", (sum(one.width for one in panels), panels[0].height), PAPER)
    for number, one in enumerate(panels):
        whole.paste(one, (number * one.width, 0))
    whole.quantize(64).save(target, optimize=True)
    print(f"wrote {target.name}, {whole.width}x{whole.height}")


if __name__ == "__main__":
    main()
