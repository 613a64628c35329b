"""One chart: what it shows, how it is drawn, and what can be asked about it."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from triptych.synth.question import Asked

Kind: TypeAlias = Literal["bars", "rows", "lines"]

KINDS: tuple[Kind, ...] = ("bars", "rows", "lines")
COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860")
FEWEST, MOST = 3, 8
"""Names along a chart."""
MOST_SERIES = 3
CLEAR = 0.08
"""Share of the range of a chart by which values differ that are compared."""
TITLE = ("What is the title of the chart?", "Read the title.")
UNIT = ("What is measured on the value axis?", "Read the label of the value axis.")
COUNT = ("How many {noun} values are along the chart?", "For how many {noun} values is there data?")
HIGHEST = ("Which {noun} has the {end} value?", "For which {noun} is the value {end}?")
HIGHER = ("Is the value for {a} higher than for {b}?", "Is {a} above {b} in value?")
PRINTED = ("Which number is printed at {a}?", "Read the number at {a}.")
TICK = ("What is the largest number on the value axis?", "Read the highest tick of the value axis.")
SERIES = ("Which {noun} is highest at {a}?", "At {a}, which {noun} has the highest value?")


@dataclass(frozen=True)
class Chart:
    """What a chart shows.

    Attributes:
        title: above it.
        unit: on the axis of the values.
        series: name of each series -> value at each place, all in one order.
        places: names along the chart.
        nouns: what a series is, and what a place is.
        kind: of the drawing.
        printed: whether the values are printed beside their bars.
        print_size: of the small print in pixels.
        size: width and height in pixels.
    """

    title: str
    unit: str
    series: Mapping[str, Sequence[float]]
    places: Sequence[str]
    nouns: tuple[str, str]
    kind: Kind
    printed: bool
    print_size: int
    size: tuple[int, int]


def make_chart(
    title: str,
    values: Mapping[str, Mapping[str, float]],
    nouns: tuple[str, str],
    rng: random.Random,
) -> Chart | None:
    """A chart of some of the values, or None where too few names go together."""
    firsts = [name for name, row in values.items() if len(row) >= FEWEST]
    if not firsts:
        return None
    chosen = [rng.choice(firsts)]
    shared = list(values[chosen[0]])
    if rng.random() < 0.4:
        for other in rng.sample(firsts, min(len(firsts), 6)):
            both = [name for name in shared if name in values[other]]
            if other not in chosen and len(both) >= FEWEST and len(chosen) < MOST_SERIES:
                chosen.append(other)
                shared = both
    count = rng.randint(FEWEST, min(MOST, len(shared)))
    wanted = set(rng.sample(shared, count))
    places = [name for name in shared if name in wanted]
    kind = rng.choice(KINDS)
    side = rng.choice((448, 560, 672))
    return Chart(
        title=f"{title.partition(' (')[0]}: {', '.join(chosen)}",
        unit=title,
        series={name: [round(values[name][place], 2) for place in places] for name in chosen},
        places=places,
        nouns=nouns,
        kind=kind,
        printed=kind != "lines" and len(chosen) == 1 and rng.random() < 0.5,
        print_size=rng.randint(9, 14),
        size=(side, rng.choice((side, side * 3 // 4))),
    )


def draw_chart(chart: Chart) -> tuple[Image.Image, list[str]]:
    """The picture, and the numbers on the axis of the values from low to high."""
    dots = 100
    # Sizes of print are points: 72 to the inch.
    size = chart.print_size * 72 / dots
    figure = Figure(figsize=(chart.size[0] / dots, chart.size[1] / dots), dpi=dots, layout="tight")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    steps = np.arange(len(chart.places))
    width = 0.8 / len(chart.series)
    for number, (name, values) in enumerate(chart.series.items()):
        colour = COLOURS[number % len(COLOURS)]
        offset = steps + (number - (len(chart.series) - 1) / 2) * width
        if chart.kind == "lines":
            axes.plot(steps, values, marker="o", color=colour, label=name)
        elif chart.kind == "bars":
            drawn = axes.bar(offset, values, width, color=colour, label=name)
        else:
            drawn = axes.barh(offset, values, width, color=colour, label=name)
        if chart.printed:
            axes.bar_label(drawn, fmt=write_value, fontsize=size)
    along = chart.kind == "rows"
    value_axis: Axis = axes.xaxis if along else axes.yaxis
    name_axis: Axis = axes.yaxis if along else axes.xaxis
    if along:
        axes.invert_yaxis()
    turned = 0 if along else 30
    name_axis.set_ticks(steps, labels=chart.places, rotation=turned, fontsize=size)
    value_axis.set_tick_params(labelsize=size)
    value_axis.set_label_text(chart.unit, fontsize=size)
    axes.set_title(chart.title, fontsize=1.2 * size, wrap=True)
    if len(chart.series) > 1:
        axes.legend(fontsize=size)
    canvas.draw()
    low, high = sorted(value_axis.get_view_interval())
    shown = [tick for tick in value_axis.get_major_ticks() if low <= tick.get_loc() <= high]
    ticks = [tick.label1.get_text() for tick in sorted(shown, key=lambda tick: tick.get_loc())]
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"), ticks


def write_value(value: float) -> str:
    """A number as it is printed beside its bar."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def ask_chart(chart: Chart, ticks: Sequence[str], count: int, rng: random.Random) -> list[Asked]:
    """Questions of different kinds, all answered by the picture."""
    asked = [
        Asked(rng.choice(TITLE), chart.title, "title"),
        Asked(rng.choice(UNIT), chart.unit, "unit"),
        *_about_values(chart, rng),
    ]
    tick = ticks[-1].replace("\u2212", "-") if ticks else ""
    if tick:
        asked.append(Asked(rng.choice(TICK), tick, "tick"))
    rng.shuffle(asked)
    return asked[:count]


def _about_values(chart: Chart, rng: random.Random) -> Iterator[Asked]:
    series_noun, noun = chart.nouns
    far = CLEAR * _range(chart)
    if len(chart.series) > 1:
        place = rng.randrange(len(chart.places))
        first, second, *_ = sorted(chart.series, key=lambda name: -chart.series[name][place])
        if chart.series[first][place] - chart.series[second][place] > far:
            text = rng.choice(SERIES).format(noun=series_noun, a=chart.places[place])
            yield Asked(text, first, "series")
        return
    (values,) = chart.series.values()
    order = sorted(range(len(values)), key=lambda n: values[n])
    end = rng.choice(("highest", "lowest"))
    best, next_best = order[::-1][:2] if end == "highest" else order[:2]
    if abs(values[best] - values[next_best]) > far:
        text = rng.choice(HIGHEST).format(noun=noun, end=end)
        yield Asked(text, chart.places[best], "extreme")
    a, b = rng.sample(range(len(values)), 2)
    if abs(values[a] - values[b]) > far:
        text = rng.choice(HIGHER).format(a=chart.places[a], b=chart.places[b])
        yield Asked(text, "yes" if values[a] > values[b] else "no", "compare")
    if chart.printed:
        text = rng.choice(PRINTED).format(a=chart.places[a])
        yield Asked(text, write_value(values[a]), "printed")
    yield Asked(rng.choice(COUNT).format(noun=noun), str(len(values)), "count")


def _range(chart: Chart) -> float:
    values = [value for row in chart.series.values() for value in row]
    # Bars begin at 0, so that small differences of large values cannot be seen.
    low = min(0.0, *values) if chart.kind != "lines" else min(values)
    return max(0.0, *values) - low if chart.kind != "lines" else max(values) - low
