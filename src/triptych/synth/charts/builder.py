"""Charts of real tables, with questions whose answers have to be read in the picture."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from triptych.data.schema import Record
from triptych.synth.album import Album, Sample
from triptych.synth.charts.chart import Chart, ask_chart, draw_chart, make_chart
from triptych.synth.charts.tables import TABLES, VEGA, Table, read_measures

VERSION = 1
"""Raised when the same plan makes other files, so that a folder built before is built anew."""
PORTION = 20
TRIES = 20


@dataclass(frozen=True)
class Charts:
    """The builder.

    Attributes:
        folder: of the unpacked package vega-datasets.
        seed: of the training charts; the held-out charts are the same for every seed.
        train, test: number of charts.
        questions: about a chart, at most; no kind comes twice.
    """

    folder: Path
    seed: int = 0
    train: int = 2000
    test: int = 200
    questions: int = 3
    name: str = "charts"

    def describe(self) -> Mapping[str, object]:
        """All that decides what is made."""
        plain = {key: value for key, value in vars(self).items() if key != "folder"}
        return plain | {"version": VERSION, "package": VEGA.describe()}

    def items(self) -> Sequence[str]:
        """Portions of the charts of each split."""
        return [
            f"{split}/{start}"
            for split, count in (("train", self.train), ("test", self.test))
            for start in range(0, count, PORTION)
        ]

    def make(self, item: str, album: Album, rng: random.Random) -> Iterator[Sample]:
        """Draw the charts of a portion."""
        split, _, start = item.partition("/")
        if split == "test":
            rng = random.Random(f"held out charts {item}")
        last = self.train if split == "train" else self.test
        tables = [table for table in TABLES if table.held_out == (split == "test")]
        for _ in range(int(start), min(int(start) + PORTION, last)):
            table, chart = _choose(self.folder, tables, rng)
            picture, ticks = draw_chart(chart)
            image = album.add(picture)
            for asked in ask_chart(chart, ticks, self.questions, rng):
                record = Record(
                    asked.messages(image),
                    source=VEGA.source,
                    license=table.license,
                    metadata={"file": f"data/{table.file}", "title": chart.title},
                )
                yield Sample(f"{split}.jsonl", record)


def _choose(folder: Path, tables: Sequence[Table], rng: random.Random) -> tuple[Table, Chart]:
    """A chart of one of the tables; either name of a fact may stand along it."""
    for _ in range(TRIES):
        table = rng.choice(tables)
        measure = rng.choice(read_measures(folder, table))
        values, nouns = measure.values, table.names
        if rng.random() < 0.5:
            values, nouns = _turned(values), nouns[::-1]
        chart = make_chart(measure.title, values, nouns, rng)
        if chart is not None:
            return table, chart
    raise AssertionError("no table has a chart")


def _turned(values: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    turned: dict[str, dict[str, float]] = {}
    for first, row in values.items():
        for second, value in row.items():
            turned.setdefault(second, {})[first] = value
    return turned
