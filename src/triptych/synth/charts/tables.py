"""Tables of numbers from the package vega-datasets (npm), each with its own licence.

Only tables whose licence is stated in the package or which are works of the US government are
used. Whole tables are held out, so that neither the numbers nor the names of a held-out chart were
trained on.
"""

import csv
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

from triptych.errors import DataError
from triptych.synth.packages import Package

VEGA = Package(
    "npm",
    "vega-datasets",
    "3.2.1",
    "6f72fda460a9863fae5fcb32f85bcd49e1761fdea6dc6cf9f4962472881cc5a3",
    "per table",
    17_630_305,
)

Row: TypeAlias = Mapping[str, Any]
Fact: TypeAlias = tuple[str, str, str, float]
"""What is measured, the first name, the second name, and the value."""


@dataclass(frozen=True)
class Table:
    """One table of the package.

    Attributes:
        file: below ``package/data``.
        license: of the table.
        held_out: whether its charts are for testing.
        names: what the first and the second name of a fact are: ('country', 'year').
        facts: takes the facts out of one row.
    """

    file: str
    license: str
    held_out: bool
    names: tuple[str, str]
    facts: Callable[[Row], Iterator[Fact]]


@dataclass(frozen=True)
class Measure:
    """The numbers of one kind in a table: first name -> second name -> value."""

    title: str
    values: Mapping[str, Mapping[str, float]]


def _gapminder(row: Row) -> Iterator[Fact]:
    country, year = str(row["country"]), str(row["year"])
    yield "Life expectancy (years)", country, year, float(row["life_expect"])
    yield "Children per woman", country, year, float(row["fertility"])
    yield "Population (millions)", country, year, float(row["pop"]) / 1e6


def _health(row: Row) -> Iterator[Fact]:
    region = str(row["region"]).replace("_", " ")
    yield "Income per person (dollars)", region, str(row["country"]), float(row["income"])
    yield "Health (years)", region, str(row["country"]), float(row["health"])


def _employment(row: Row) -> Iterator[Fact]:
    year, month, _ = str(row["month"]).split("-")
    for name in ("construction", "manufacturing", "retail_trade", "information", "utilities"):
        if month == "01":
            yield "Employees (thousands)", name.replace("_", " "), year, float(row[name])


def _unemployment(row: Row) -> Iterator[Fact]:
    if row["month"] == 1:
        yield "Unemployed (percent)", str(row["series"]), str(row["year"]), float(row["rate"])


def _carbon(row: Row) -> Iterator[Fact]:
    year, month, _ = str(row["Date"]).split("-")
    if month in ("01", "07"):
        name = "January" if month == "01" else "July"
        yield "Carbon dioxide (ppm)", name, year, float(row["CO2"])


def _obesity(row: Row) -> Iterator[Fact]:
    yield "Adults with obesity (percent)", "all", str(row["state"]), 100 * float(row["rate"])


def _electricity(row: Row) -> Iterator[Fact]:
    year = str(row["year"]).partition("-")[0]
    yield "Net generation (GWh)", str(row["source"]), year, float(row["net_generation"])


def _wheat(row: Row) -> Iterator[Fact]:
    yield "Price of wheat (shillings)", "wheat", str(row["year"]), float(row["wheat"])
    if "wages" in row:
        yield "Weekly wage (shillings)", "wages", str(row["year"]), float(row["wages"])


def _weather(row: Row) -> Iterator[Fact]:
    year, month, day = str(row["date"]).split("-")
    if day == "15":
        name = MONTHS[int(month) - 1]
        yield "Highest temperature (degrees)", year, name, float(row["temp_max"])
        yield "Lowest temperature (degrees)", year, name, float(row["temp_min"])
        yield "Wind (m/s)", year, name, float(row["wind"])


MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
CC_BY, US = "CC-BY-4.0", "LicenseRef-US-government-work"
TABLES = (
    Table("gapminder.json", CC_BY, False, ("country", "year"), _gapminder),
    Table("gapminder-health-income.csv", CC_BY, False, ("region", "country"), _health),
    Table("us-employment.csv", US, False, ("industry", "year"), _employment),
    Table("unemployment-across-industries.json", US, False, ("industry", "year"), _unemployment),
    Table("co2-concentration.csv", CC_BY, False, ("month", "year"), _carbon),
    Table("obesity.json", US, False, ("group", "state"), _obesity),
    Table("iowa-electricity.csv", US, True, ("source", "year"), _electricity),
    Table("wheat.json", "LicenseRef-public-domain", True, ("kind", "year"), _wheat),
    Table("seattle-weather.csv", US, True, ("year", "month"), _weather),
)


@cache
def read_measures(folder: Path, table: Table) -> tuple[Measure, ...]:
    """The numbers of a table of an unpacked package.

    Raises:
        DataError: the file is missing or of another layout.
    """
    path = folder / "package" / "data" / table.file
    found: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    try:
        for row in _rows(path):
            for title, first, second, value in table.facts(row):
                found[title][first][second] = value
    except FileNotFoundError:
        raise DataError(f"{path}: no such file in the package") from None
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise DataError(f"{path}: not the layout of vega-datasets ({error!r})") from None
    return tuple(Measure(title, dict(values)) for title, values in found.items())


def _rows(path: Path) -> Iterator[Row]:
    if path.suffix == ".json":
        yield from json.loads(path.read_text(encoding="utf-8"))
        return
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)
