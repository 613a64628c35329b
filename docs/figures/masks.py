"""Draw what each attention rule lets a query see.

    python docs/figures/masks.py        writes docs/figures/masks.svg

The cells are the masks of the rules themselves, so that the figure cannot say something else than
the code.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from triptych.attention import Kind, Rule, make_rule, make_tokens

CELL = 15
MARGIN = 12
HEAD = 44
COLUMNS = 3
PAPER, INK, EMPTY = "#ffffff", "#222222", "#eef0f2"
COLORS = {"all": "#6b7280", "text": "#2f6db5", "image": "#e08a2e"}
MEANINGS = {
    "all": "one softmax over all",
    "text": "softmax over text",
    "image": "softmax over images, added",
}
KINDS = [Kind.TEXT] * 2 + [Kind.IMAGE] * 3 + [Kind.TEXT] * 2 + [Kind.IMAGE] * 3 + [Kind.TEXT] * 2
TWO = [0] * 6 + [1] * 6


@dataclass(frozen=True)
class Panel:
    """One mask with its title."""

    title: str
    rule: Rule
    documents: Tensor | None = None

    def masks(self) -> dict[str, Tensor]:
        """Group -> bool (queries, keys)."""
        kinds = torch.tensor([KINDS])
        masks = self.rule.masks(make_tokens(kinds, documents=self.documents), len(KINDS))
        return {group.name: mask[0] for group, mask in zip(self.rule.groups, masks, strict=True)}


def panels() -> list[Panel]:
    """What is drawn, in order."""
    return [
        Panel("causal", make_rule("causal")),
        Panel("mmca", make_rule("mmca")),
        Panel("mmca, two documents", make_rule("mmca"), torch.tensor([TWO])),
        Panel("mmca, image_scope: image", make_rule("mmca", "image")),
        Panel("mmca_as_coded", make_rule("mmca_as_coded")),
    ]


def draw() -> str:
    """The figure as SVG."""
    side = len(KINDS) * CELL
    width, height = side + 3 * MARGIN + 10, side + HEAD + MARGIN
    parts = [
        drawn
        for number, panel in enumerate(panels())
        for drawn in draw_panel(panel, number % COLUMNS * width, number // COLUMNS * height)
    ]
    parts += draw_legend(2 * width + MARGIN, height + HEAD)
    size = f'width="{COLUMNS * width}" height="{2 * height}"'
    view = f'viewBox="0 0 {COLUMNS * width} {2 * height}"'
    font = 'font-family="sans-serif" font-size="11"'
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {view} {font} fill="{INK}">'
    return "\n".join(
        [opening, rectangle(0, 0, COLUMNS * width, 2 * height, PAPER), *parts, "</svg>\n"]
    )


def draw_panel(panel: Panel, left: int, top: int) -> list[str]:
    """Keys from left to right, queries from top to bottom, kinds along both edges."""
    left, top = left + 2 * MARGIN, top + HEAD
    parts = [text(left, top - 22, panel.title, bold=True)]
    for place, kind in enumerate(KINDS):
        color = COLORS["image" if kind == Kind.IMAGE else "text"]
        parts.append(rectangle(left + place * CELL, top - 10, CELL - 1, 5, color))
        parts.append(rectangle(left - 10, top + place * CELL, 5, CELL - 1, color))
    masks = panel.masks()
    for query in range(len(KINDS)):
        for key in range(len(KINDS)):
            seen = [name for name, mask in masks.items() if mask[query, key]]
            color = COLORS[seen[0]] if seen else EMPTY
            x, y = left + key * CELL, top + query * CELL
            parts.append(rectangle(x, y, CELL - 1, CELL - 1, color))
    return parts


def draw_legend(left: int, top: int) -> list[str]:
    """What the colours mean."""
    parts = [text(left, top, "rows: queries, columns: keys")]
    for number, (name, meaning) in enumerate(MEANINGS.items(), start=1):
        parts.append(rectangle(left, top + 20 * number - 9, CELL - 1, CELL - 1, COLORS[name]))
        parts.append(text(left + CELL + 6, top + 20 * number, meaning))
    notes = [
        "edges: blue is a text token,",
        "orange a visual token; a lone",
        "orange cell is a value as it is",
    ]
    return parts + [text(left, top + 88 + 14 * n, note) for n, note in enumerate(notes)]


def rectangle(x: int, y: int, width: int, height: int, color: str) -> str:
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{color}"/>'


def text(x: int, y: int, words: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x}" y="{y}"{weight}>{words}</text>'


if __name__ == "__main__":
    Path(__file__).with_name("masks.svg").write_text(draw(), encoding="utf-8")
