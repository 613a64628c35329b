import csv
import json
import random
from pathlib import Path

import numpy as np
import pytest

from triptych.cli.main import main
from triptych.data.readers import open_reader
from triptych.data.schema import Record
from triptych.errors import DataError
from triptych.images.decode import content_hash, open_image
from triptych.synth.charts.builder import Charts
from triptych.synth.charts.chart import KINDS, Chart, Kind, ask_chart, draw_chart, write_value
from triptych.synth.charts.tables import TABLES, VEGA, read_measures
from triptych.synth.pipeline import build

NAMES = ("Asa", "Bor", "Cel", "Dun", "Eri")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The layout of vega-datasets, with a few rows in each table."""
    folder = tmp_path_factory.mktemp("vega")
    data = folder / "package" / "data"
    data.mkdir(parents=True)
    rng = random.Random(0)
    years = range(1990, 1998)

    def number() -> float:
        return round(rng.uniform(1, 100), 1)

    gapminder = [
        {"year": y, "country": c, "life_expect": number(), "fertility": number(), "pop": 9 * 10**6}
        for c in NAMES
        for y in years
    ]
    rates = [
        {"series": c, "year": y, "month": m, "rate": number()}
        for c in NAMES
        for y in years
        for m in (1, 2)
    ]
    wheat = [{"year": str(y), "wheat": number(), "wages": number()} for y in years]
    obesity = [{"state": c, "rate": 0.2 + 0.01 * k} for k, c in enumerate(NAMES)]
    write = {
        "gapminder.json": gapminder,
        "unemployment-across-industries.json": rates,
        "wheat.json": wheat,
        "obesity.json": obesity,
    }
    for name, rows in write.items():
        (data / name).write_text(json.dumps(rows))
    industries = ("construction", "manufacturing", "retail_trade", "information", "utilities")
    tables = {
        "gapminder-health-income.csv": [
            {"country": c, "income": number(), "health": number(), "region": "one_part"}
            for c in NAMES
        ],
        "us-employment.csv": [
            {"month": f"{y}-{m:02d}-01"} | {name: number() for name in industries}
            for y in years
            for m in (1, 6)
        ],
        "co2-concentration.csv": [
            {"Date": f"{y}-{m:02d}-01", "CO2": number()} for y in years for m in (1, 2, 7)
        ],
        "iowa-electricity.csv": [
            {"year": f"{y}-01-01", "source": c, "net_generation": number()}
            for c in NAMES
            for y in years
        ],
        "seattle-weather.csv": [
            {"date": f"{y}-{m:02d}-15", "temp_max": number(), "temp_min": number(), "wind": 3}
            for y in (2012, 2013)
            for m in range(1, 13)
        ],
    }
    for name, lines in tables.items():
        with (data / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(lines[0]))
            writer.writeheader()
            writer.writerows(lines)
    return folder


def chart(kind: Kind, values: dict[str, list[float]], *, printed: bool = False) -> Chart:
    places = [f"p{number}" for number in range(len(next(iter(values.values()))))]
    return Chart(
        "Title: x", "Unit (u)", values, places, ("kind", "place"), kind, printed, 11, (448, 448)
    )


def test_every_table_is_read(package: Path) -> None:
    for table in TABLES:
        measures = read_measures(package, table)
        assert measures, table.file
        assert all(row for measure in measures for row in measure.values.values())
    wheat = json.loads((package / "package/data/wheat.json").read_text())
    (table,) = (table for table in TABLES if table.file == "wheat.json")
    (price, _) = read_measures(package, table)
    assert price.values["wheat"] == {row["year"]: row["wheat"] for row in wheat}


def test_a_table_of_another_layout_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gapminder\.json: no such file in the package"):
        read_measures(tmp_path, TABLES[0])
    (tmp_path / "package" / "data").mkdir(parents=True)
    (tmp_path / "package/data/gapminder.json").write_text('[{"x": 1}]')
    with pytest.raises(DataError, match="not the layout of vega-datasets"):
        read_measures(tmp_path, TABLES[0])


@pytest.mark.parametrize("kind", KINDS)
def test_longer_bars_and_higher_lines_mean_larger_values(kind: Kind) -> None:
    small, _ = draw_chart(chart(kind, {"a": [1, 2, 3, 10]}))
    large, ticks = draw_chart(chart(kind, {"a": [1, 9, 3, 10]}))
    colour = np.array([0x4C, 0x72, 0xB0])

    def ink(picture: object) -> int:
        return int((np.abs(np.asarray(picture).astype(int) - colour).sum(axis=2) < 30).sum())

    assert small.size == large.size == (448, 448)
    if kind != "lines":
        assert ink(large) > 1.3 * ink(small)
    assert float(ticks[-1]) >= 10 > float(ticks[0])
    assert [float(tick) for tick in ticks] == sorted(map(float, ticks))


@pytest.mark.parametrize("seed", range(20))
def test_answers_are_true_of_the_values(seed: int) -> None:
    rng = random.Random(seed)
    values = [rng.randint(1, 40) * 2.5 for _ in range(5)]
    shown = chart("bars", {"a": values}, printed=True)
    by_place = dict(zip(shown.places, values, strict=True))
    for one in ask_chart(shown, ["0", "\u22125", "100"], 99, rng):
        named = [place for place in shown.places if place in one.question]
        if one.category == "extreme":
            end = max if "highest" in one.question else min
            assert by_place[one.answer] == end(values)
        elif one.category == "compare":
            higher = by_place[named[0]] > by_place[named[1]]
            if one.question.index(named[0]) > one.question.index(named[1]):
                higher = not higher
            assert one.answer == ("yes" if higher else "no")
        elif one.category == "printed":
            assert float(one.answer) == by_place[named[0]]
        else:
            expected = {"title": "Title: x", "unit": "Unit (u)", "count": "5", "tick": "100"}
            assert one.answer == expected[one.category]


def test_several_series_are_compared_where_they_differ_clearly() -> None:
    shown = chart("lines", {"up": [1, 5, 9], "down": [9, 5, 1]})
    found = [
        one
        for seed in range(40)
        for one in ask_chart(shown, ["10"], 9, random.Random(seed))
        if one.category == "series"
    ]
    assert {one.answer for one in found} == {"up", "down"}
    assert all(("p0" in one.question) == (one.answer == "down") for one in found)
    assert not any("p1" in one.question for one in found), "both are 5 there"


@pytest.mark.parametrize(
    ("value", "text"), [(3.0, "3"), (2.5, "2.5"), (100, "100"), (0.25, "0.25")]
)
def test_values_are_printed_short(value: float, text: str) -> None:
    assert write_value(value) == text


def records(folder: Path, name: str) -> list[Record]:
    reader = open_reader(folder / name)
    return [reader[index] for index in range(len(reader))]


def test_whole_tables_are_held_out(package: Path, tmp_path: Path) -> None:
    build(Charts(package, train=10, test=8), tmp_path / "x")
    tables = {table.file: table for table in TABLES}
    hashes = {}
    for split in ("train", "test"):
        found = records(tmp_path / "x", f"{split}.jsonl")
        for record in found:
            table = tables[str((record.metadata or {})["file"]).removeprefix("data/")]
            assert table.held_out == (split == "test")
            assert record.license == table.license
            assert record.source == VEGA.source
        hashes[split] = {content_hash(open_image(r.images[0].location)) for r in found}
        assert len(hashes[split]) >= 7
    assert hashes["train"].isdisjoint(hashes["test"])


def test_seeds_change_training_only(package: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        build(Charts(package, seed, train=2, test=2), tmp_path / f"{seed}")
    texts = [
        [(tmp_path / f"{seed}" / f"{split}.jsonl").read_bytes() for seed in (0, 1)]
        for split in ("train", "test")
    ]
    assert texts[0][0] != texts[0][1]
    assert texts[1][0] == texts[1][1]


def test_the_verb(package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["data", "build", "charts", "--out", str(tmp_path / "x"), "--workers", "1"]
    command += ["--train", "3", "--test", "3", "--source", f"vega-datasets={package}"]
    assert main(command) == 0
    assert "CC-BY-4.0" in capsys.readouterr().out + (tmp_path / "x/build.json").read_text()
