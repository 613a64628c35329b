"""loss.png: the course of the loss, drawn from metrics.jsonl."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triptych.training.files import TEMPORARY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SMOOTHING = 0.9


def draw_loss(folder: Path) -> Path | None:
    """Draw training loss (raw and smoothed), held-out losses and stage borders.

    Args:
        folder: the run folder; its metrics.jsonl is read.

    Returns:
        The picture's path, or None when nothing has been logged yet.
    """
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    entries: list[dict[str, Any]] = [json.loads(line) for line in lines]
    train = [entry for entry in entries if entry["kind"] == "train"]
    if not train:
        return None
    # pyplot would pick a screen; a Figure of its own needs none. Imported late: half a second.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), dpi=110, layout="constrained")
    axes = figure.subplots()
    steps, losses = [e["step"] for e in train], [e["loss"] for e in train]
    axes.plot(steps, losses, color="tab:blue", alpha=0.25, linewidth=1)
    axes.plot(steps, smooth(losses), color="tab:blue", label="training (smoothed)")
    held_out = [entry for entry in entries if entry["kind"] == "held_out"]
    for name in dict.fromkeys(entry["set"] for entry in held_out):
        points = [(e["step"], e["loss"]) for e in held_out if e["set"] == name]
        axes.plot(*zip(*points, strict=True), "o-", markersize=4, linewidth=1, label=name)
    _draw_stages(axes, train)
    axes.set(xlabel="optimizer step", ylabel="loss (of a token or pair)", title=folder.name)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    temporary = folder / (TEMPORARY + "loss.png")
    figure.savefig(temporary, format="png")
    return temporary.replace(folder / "loss.png")


def smooth(values: Sequence[float]) -> list[float]:
    """Exponential moving average, corrected for its start.

    ``smooth([4.0, 2.0])`` is [4.0, 2.947]: (0.9 * 4 + 2) / 1.9.
    """
    smoothed, total, weight = [], 0.0, 0.0
    for value in values:
        total = SMOOTHING * total + value
        weight = SMOOTHING * weight + 1
        smoothed.append(total / weight)
    return smoothed


def _draw_stages(axes: "Axes", train: Sequence[dict[str, Any]]) -> None:
    """A vertical line with the stage's name where each stage begins."""
    begins: dict[str, int] = {}
    for entry in train:
        begins.setdefault(entry["stage"], entry["step"])
    for number, (name, step) in enumerate(begins.items()):
        if number:
            axes.axvline(step, color="grey", linestyle="--", linewidth=1)
        top = axes.get_xaxis_transform()
        axes.text(step, 0.99, f" {name}", transform=top, va="top", color="grey", fontsize=8)
