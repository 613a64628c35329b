import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from triptych.cli.main import main
from triptych.data.readers import open_reader
from triptych.data.schema import Record
from triptych.errors import DataError
from triptych.images.decode import content_hash, open_image
from triptych.synth.maps.atlas import View, load_atlas
from triptych.synth.maps.builder import Maps
from triptych.synth.maps.chart import COLOURS, deepest, find_neighbours, find_region
from triptych.synth.maps.kgeography import read_sheet
from triptych.synth.maps.topology import read_countries
from triptych.synth.pipeline import build

SIZE = (240, 180)


def write_atlas(folder: Path, rows: int = 5, columns: int = 6) -> None:
    """A part of the world: 6 x 5 countries that share their arcs; one of them has a hole."""
    arcs: list[list[list[int]]] = []
    geometries = []
    for row in range(rows):
        for column in range(columns):
            # In steps of half a degree, from the lower left corner on: point, then differences.
            start = [column * 60, row * 40]
            arcs.append([start, [60, 0], [0, 40]])
            arcs.append([[start[0], start[1]], [0, 40], [60, 0]])
            number = len(arcs)
            geometries.append(
                {
                    "type": "Polygon",
                    "arcs": [[number - 2, ~(number - 1)]],
                    "properties": {"name": f"Land {row}-{column}"},
                }
            )
    # Inside the second country: an island state, drawn as a hole and as a country of two polygons.
    arcs.append([[80, 15], [20, 0], [0, 10], [-20, 0], [0, -10]])
    geometries[1]["arcs"].append([len(arcs) - 1])  # type: ignore[attr-defined]
    geometries.insert(
        0,
        {
            "type": "MultiPolygon",
            "arcs": [[[len(arcs) - 1]]],
            "properties": {"name": "Enclave"},
        },
    )
    topology = {
        "type": "Topology",
        "objects": {"countries": {"type": "GeometryCollection", "geometries": geometries}},
        "arcs": arcs,
        "transform": {"scale": [0.5, 0.5], "translate": [-180, -80]},
    }
    (folder / "package").mkdir(parents=True)
    (folder / "package" / "countries-110m.json").write_text(json.dumps(topology))


def write_sheet(folder: Path, name: str, colours: Mapping[str, tuple[int, int, int]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGB", (30 * len(colours) + 4, 60), (0, 0, 0))
    divisions = []
    for number, (region, colour) in enumerate(colours.items()):
        left = 2 + 30 * number
        picture.paste(colour, (left, 2, left + 29, 58))
        text = "".join(
            f"<{part}>{value}</{part}>"
            for part, value in zip(("red", "green", "blue"), colour, strict=True)
        )
        ignored = "<ignore>yes</ignore>" if region == "Water" else ""
        capital = f"<capital>{region} City</capital>"
        divisions.append(
            f"<division><name>{region}</name>{capital}{ignored}<color>{text}</color></division>"
        )
    picture.save(folder / f"{name}.png")
    (folder / f"{name}.kgm").write_text(
        '<?xml version="1.0" encoding="utf-8"?>\n<!DOCTYPE kgeographyMap>\n<map>'
        f"<mapFile>{name}.png</mapFile><name>{name}</name>{''.join(divisions)}</map>"
    )


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("maps")
    write_atlas(root / "atlas")
    for number in range(6):
        colours = {f"R{number}{n}": (10 * n, 90 + number, 40) for n in range(5)}
        folder = root / "kgeography" / "usr/share/kgeography"
        write_sheet(folder, f"map{number}", {**colours, "Water": (1, 2, 200)})
    write_sheet(folder, "single", {"Alone": (1, 2, 3), "Water": (9, 9, 9)})
    (folder / "lost.kgm").write_bytes((folder / "map1.kgm").read_bytes().replace(b"map1", b"gone"))
    (folder / "broken.kgm").write_text("<map")
    (folder / "short.png").write_bytes((folder / "map1.png").read_bytes()[:100])
    text = (folder / "map1.kgm").read_text().replace("map1.png", "short.png")
    (folder / "short.kgm").write_text(text)
    return root / "atlas", root / "kgeography"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, packages: tuple[Path, Path]) -> Path:
    out = tmp_path_factory.mktemp("built") / "maps"
    build(Maps(*packages, views=4, share=0.3, size=SIZE), out)
    return out


def read(folder: Path) -> dict[str, list[Record]]:
    found = {}
    for path in sorted(folder.glob("t*.jsonl")):
        records = open_reader(path, "jsonl", None)
        found[path.name] = [records[index] for index in range(len(records))]
    return found


def marks(record: Record) -> list[tuple[str, tuple[int, int]]]:
    assert record.metadata is not None
    listed: list[dict[str, list[int]]] = record.metadata["marks"]  # type: ignore[assignment]
    return [(str(one["name"]), (one["place"][0], one["place"][1])) for one in listed]


def test_arcs_become_rings(packages: tuple[Path, Path]) -> None:
    countries = read_countries(packages[0] / "package" / "countries-110m.json")
    first = countries[1].polygons[0][0]
    assert first.tolist() == [[-180, -80], [-150, -80], [-150, -60], [-180, -60], [-180, -80]]
    assert countries[1].centre == pytest.approx((-165, -70))
    assert len(countries[2].polygons[0]) == 2, "the hole"


def test_pixels_belong_to_the_country_that_lies_there(packages: tuple[Path, Path]) -> None:
    atlas = load_atlas(packages[0])
    names = [country.name for country in atlas.countries]
    labels = atlas.raster(View(lon=-120.0, lat=0.0, height=60.0), (120, 120))
    # 2 pixels a degree in both directions on the equator.
    assert names[labels[60 - 20, 60 + 30] - 1] == "Land 4-2"
    assert names[labels[60 + 20, 60 - 10] - 1] == "Land 3-1"
    south = atlas.raster(View(lon=-135.0, lat=-70.0, height=30.0), (120, 120))
    assert names[south[60, 60] - 1] == "Enclave"
    assert names[south[60, 60 + 10] - 1] == "Land 0-1"
    assert atlas.raster(View(0.0, 0.0, 400.0), (60, 60))[0, 0] == 0


def test_every_country_is_in_one_cell_and_on_one_side(packages: tuple[Path, Path]) -> None:
    atlas = load_atlas(packages[0])
    numbers = [number for cell in atlas.cells.values() for number in cell]
    assert sorted(numbers) == list(range(31))
    out = atlas.held_out(0.3)
    assert atlas.labels_of(out).isdisjoint(atlas.labels_of(frozenset(atlas.cells) - out))


def test_the_deepest_pixel_against_all_distances() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        mask = np.asarray(Image.fromarray(rng.random((9, 12)) > 0.4).resize((48, 36)))
        (x, y), depth = deepest(mask)
        outside = np.argwhere(~np.pad(mask, 1)) - 1
        inside = np.argwhere(mask)
        distance = np.abs(inside[:, None] - outside[None]).max(-1).min(-1)
        assert mask[y, x]
        assert depth == distance.max()
        assert distance[(inside == (y, x)).all(-1).nonzero()[0][0]] == depth


def test_small_and_thin_regions_carry_no_mark() -> None:
    labels = np.zeros((60, 60), np.uint8)
    labels[2:58, 2:7] = 1
    labels[20:40, 20:40] = 2
    labels[50:55, 50:55] = 3
    assert [find_region(labels, n, "x") is not None for n in (1, 2, 3)] == [False, True, False]


def test_neighbours_against_all_pairs_of_pixels() -> None:
    rng = np.random.default_rng(0)
    labels = np.asarray(
        Image.fromarray(rng.integers(0, 9, (5, 6)).astype(np.uint8)).resize((18, 15))
    )
    labels = np.where(rng.random(labels.shape) < 0.3, 0, labels).astype(np.uint8)
    places = {n: np.argwhere(labels == n) for n in range(1, 9)}
    for reach in (1, 2, 4):
        close = {
            (a, b)
            for a in places
            for b in places
            if a < b and len(places[a]) and len(places[b])
            if np.abs(places[a][:, None] - places[b][None]).max(-1).min() <= reach
        }
        assert find_neighbours(labels, reach) == close


def test_regions_of_a_picture_have_their_exact_masks(packages: tuple[Path, Path]) -> None:
    sheet = read_sheet(packages[1] / "usr/share/kgeography" / "map0.kgm")
    assert [one.name for one in sheet.divisions] == [f"R0{n}" for n in range(5)]
    assert sheet.divisions[1].capital == "R01 City"
    assert (sheet.labels[2:58, 32:61] == 2).all()
    assert (sheet.labels == 2).sum() == 29 * 56
    assert sheet.borders[0].all()
    assert not sheet.borders[2:58, 152:181].any(), "water is no line"


def test_splits_share_no_region_and_no_picture(built: Path) -> None:
    files = read(built)
    assert set(files) == {"train.jsonl", "test-view.jsonl", "test.jsonl"}
    regions: dict[str, set[str]] = defaultdict(set)
    pictures: dict[str, set[str]] = defaultdict(set)
    for name, records in files.items():
        for record in records:
            regions[name].update(region for region, _ in marks(record))
            pictures[name].add(str(record.images[0].location))
    hashes = {
        name: {content_hash(open_image(path)) for path in paths} for name, paths in pictures.items()
    }
    assert regions["test.jsonl"].isdisjoint(regions["train.jsonl"] | regions["test-view.jsonl"])
    assert regions["test-view.jsonl"] <= regions["train.jsonl"]
    assert hashes["train.jsonl"].isdisjoint(hashes["test.jsonl"] | hashes["test-view.jsonl"])
    kinds = {n: {r.messages[-1].category for r in records} for n, records in files.items()}
    assert {"name", "mark of name", "capital"} <= kinds["train.jsonl"]
    assert {"name", "mark of name", "capital"}.isdisjoint(kinds["test.jsonl"])


def test_answers_are_read_off_the_pixels(built: Path) -> None:
    for records in read(built).values():
        for record in records:
            picture = open_image(str(record.images[0].location))
            places = marks(record)
            text, answer = record.messages[0].text, record.messages[1]
            numbers = [int(word.strip("?.")) for word in text.split() if word.strip("?.").isdigit()]
            if answer.category == "count":
                assert answer.text == str(len(places))
            if answer.category == "colour":
                x, y = places[numbers[0] - 1][1]
                around = picture.crop((x - 16, y - 16, x + 17, y + 17)).getcolors(2000)
                assert around is not None
                assert COLOURS[answer.text] in [colour for _, colour in around]
            if answer.category == "name":
                assert places[numbers[0] - 1][0] == answer.text
            if answer.category == "mark of name":
                assert places[int(answer.text) - 1][0] == text.split("on ")[1].rstrip("?")
            if answer.category == "relation":
                axis = 0 if "of mark" in text else 1
                one, other = (places[n - 1][1][axis] for n in numbers)
                before = "left of" in text or "above" in text
                assert (answer.text == "yes") == ((one < other) == before)


def test_bad_maps_are_in_the_quarantine(built: Path) -> None:
    lines = (built / "quarantine.jsonl").read_text().splitlines()
    reasons = {line["where"]: line["reason"] for line in map(json.loads, lines)}
    assert "1 regions, expected 2" in reasons["single.kgm"]
    assert "gone.png" in reasons["lost.kgm"]
    assert "not a map of KGeography" in reasons["broken.kgm"]
    assert "short.png" in reasons["short.kgm"]


def test_another_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file in the package"):
        load_atlas(tmp_path)
    path = tmp_path / "package" / "countries-110m.json"
    path.parent.mkdir()
    path.write_text('{"arcs": []}')
    with pytest.raises(DataError, match="not a TopoJSON file of countries"):
        load_atlas(tmp_path)


def test_the_verb(
    tmp_path: Path, packages: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["data", "build", "maps", "--out", str(tmp_path / "m"), "--workers", "1"]
    command += ["--views", "1", "--source", f"world-atlas={packages[0]}"]
    assert main(command) == 0
    assert "ISC" in capsys.readouterr().out
    command += ["--source", f"kgeography-data={packages[1]}", "--copyleft", "--replace"]
    assert main(command) == 0
    assert "GPL-2.0-or-later" in capsys.readouterr().out
