"""Draws docs/figures/panels.svg: how images and text go through the three panels.

python docs/figures/panels.py
"""

from pathlib import Path

import matplotlib

matplotlib.use("svg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

BLUE, GREEN, ORANGE, GREY = "#cfe2f3", "#d9ead3", "#fce5cd", "#eeeeee"
IMAGES = ("#d9534f", "#2aa198", "#6c71c4")
SEQUENCE = (
    ("1", 0),
    ("2", 1),
    ("What changed?", None),
    ("The colour.", None),
    ("3", 2),
    ("And in image 3?", None),
)


def box(axes: Axes, x: float, y: float, width: float, height: float, colour: str) -> None:
    """One rounded box, its lower left corner at x, y."""
    style = "round,pad=0,rounding_size=0.12"
    axes.add_patch(
        FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor=colour, edgecolor="#555555")
    )


def panel(axes: Axes, y: float, title: str, detail: str, colour: str) -> None:
    """One of the three panels: a wide box with its name and what it may be."""
    box(axes, 0.2, y, 11.6, 0.95, colour)
    axes.text(0.5, y + 0.47, title, va="center", fontsize=13, weight="bold")
    axes.text(4.1, y + 0.47, detail, va="center", fontsize=10.5, color="#333333")


def token_row(axes: Axes, y: float) -> None:
    """The interleaved sequence: visual tokens of images between texts, over two rounds."""
    x = 0.2
    for label, image in SEQUENCE:
        width = 1.0 if image is not None else 0.55 + 0.145 * len(label)
        if image is None:
            box(axes, x, y, width, 0.6, GREY)
            axes.text(x + width / 2, y + 0.3, label, ha="center", va="center", fontsize=10)
        else:
            for part in range(3):
                box(axes, x + part * width / 3, y, width / 3, 0.6, IMAGES[image])
            axes.text(x + width / 2, y - 0.2, f"image {label}", ha="center", fontsize=8.5)
        x += width + 0.14


def draw(path: Path) -> None:
    """Write the picture."""
    figure, axes = plt.subplots(figsize=(9, 4.6))
    axes.set(xlim=(0, 12), ylim=(-0.1, 6.3))
    axes.axis("off")
    for number, colour in enumerate(IMAGES):
        box(axes, 0.6 + 1.2 * number, 5.35, 0.9, 0.8, colour)
        axes.text(1.05 + 1.2 * number, 5.75, str(number + 1), ha="center", va="center", color="w")
    axes.text(4.4, 5.75, "images, anywhere in the conversation", va="center", fontsize=10.5)
    panel(axes, 4.05, "vision tower(s)", "CLIP, SigLIP, DINO, ConvNeXt, EfficientNet, mixed", BLUE)
    panel(
        axes, 2.75, "connector", "linear, MLP, pixel shuffle: a few visual tokens an image", GREEN
    )
    token_row(axes, 1.75)
    panel(axes, 0.2, "language model", "any decoder of transformers: frozen, LoRA or full", ORANGE)
    for top, bottom in ((5.3, 5.03), (4.02, 3.73), (2.72, 2.4), (1.5, 1.18)):
        axes.annotate(
            "", (6, bottom), (6, top), arrowprops={"arrowstyle": "-|>", "color": "#555555"}
        )
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    plt.rcParams["svg.hashsalt"] = "triptych"
    draw(Path(__file__).with_name("panels.svg"))
