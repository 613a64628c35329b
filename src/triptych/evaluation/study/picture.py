"""study.png: every run a point, every arm its mean and spread, for each file judged."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from triptych.evaluation.study.spec import METRICS
from triptych.training.files import TEMPORARY

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_study(summary: dict[str, Any], path: Path) -> None:
    """Draw scores by file, and the seconds of training.

    Args:
        summary: what ``summarise_study`` gives, with one arm at least.
        path: the picture.
    """
    # pyplot would pick a screen; a Figure of its own needs none. Imported late: half a second.
    from matplotlib.figure import Figure

    arms: dict[str, Any] = summary["arms"]
    files = list(next(iter(arms.values()))["scores"])
    metric = summary["metrics"][0]
    label = f"{METRICS[metric]}, %"
    width = max(2.6, 0.9 * len(arms)) * (len(files) + 1)
    figure = Figure(figsize=(width, 4.2), dpi=110, layout="constrained")
    figure.suptitle(summary["title"])
    panels = figure.subplots(1, len(files) + 1, squeeze=False)[0]
    for axes, name in zip(panels, files, strict=False):
        scores = {arm: one["scores"][name] for arm, one in arms.items()}
        _draw(axes, {arm: one[metric] for arm, one in scores.items()}, 100)
        blind = [one[f"blind_{metric}"] for one in scores.values()]
        if all(one is not None for one in blind):
            for place, one in enumerate(blind):
                height = 100 * one["mean"]
                axes.plot([place - 0.3, place + 0.3], [height] * 2, ":", color="grey")
        axes.set(title=name, ylabel=label if axes is panels[0] else "", ylim=(0, 102))
    _draw(panels[-1], {arm: one["seconds"] for arm, one in arms.items()}, 1)
    panels[-1].set(title="seconds in steps")
    panels[-1].set_ylim(bottom=0)
    temporary = path.with_name(TEMPORARY + path.name)
    figure.savefig(temporary, format="png")
    temporary.replace(path)


def _draw(axes: "Axes", values: dict[str, dict[str, Any]], factor: float) -> None:
    for place, one in enumerate(values.values()):
        points = [factor * value for value in one["values"]]
        axes.plot([place] * len(points), points, "o", color="tab:blue", alpha=0.5, markersize=5)
        spread = factor * (one["std"] or 0)
        axes.errorbar(place, factor * one["mean"], yerr=spread, fmt="_", color="black", capsize=5)
    axes.set_xticks(range(len(values)), list(values), rotation=20)
    axes.set_xlim(-0.6, len(values) - 0.4)
    axes.grid(axis="y", alpha=0.3)
