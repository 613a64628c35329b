import io
import json
from pathlib import Path

import pytest
from PIL import Image
from tests.data.tiny import answer, many, paint, user, write_jsonl

from triptych.cli.main import main
from triptych.data.convert import convert
from triptych.data.readers import open_reader
from triptych.data.record import ImagePart, Record
from triptych.data.stats import draw, make_histogram, measure_records
from triptych.errors import DataError
from triptych.images.decode import open_image
from triptych.model.processing import TriptychProcessor


def content(record: Record) -> list[object]:
    """Everything of a record but how its images are named."""
    pixels = [open_image(part.location).tobytes() for part in record.images]
    return [record.wording_key, pixels, record.id, record.chosen, record.rejected]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    path = many(tmp_path / "in", 25)
    extra = [
        {"messages": [user("q", "1.png")], "chosen": "a", "rejected": "b", "id": "p"},
        {"messages": [user("q"), answer("no", loss=False), user("r"), answer("yes", category="x")]},
        {"messages": [{"role": "document", "content": [{"type": "image", "image": "2.png"}]}]},
    ]
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(one) + "\n" for one in extra)
    return path


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet", "out.tar"])
def test_every_format_gives_the_records_back(path: Path, tmp_path: Path, name: str) -> None:
    reader = open_reader(path)
    out = tmp_path / "to" / name
    done = convert(reader, out, shard=10)
    assert done.records == 28
    assert done.images == sum(len(reader[k].images) for k in range(28))
    back = open_reader(out if name != "out.tar" else tmp_path / "to" / "out-*.tar")
    assert len(done.files) == (3 if name == "out.tar" else 1)
    assert len(back) == 28
    for index in range(28):
        assert content(back[index]) == content(reader[index])
    again = tmp_path / "again.jsonl"
    convert(back, again)
    final = open_reader(again)
    assert [content(final[k]) for k in range(28)] == [content(reader[k]) for k in range(28)]


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet", "out.tar", "out.csv"])
def test_nothing_is_left_of_a_conversion_that_fails(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "q"}]}\n{"bad": 1}\n', "utf-8")
    with pytest.raises(DataError, match=r"a\.jsonl:2|must end with"):
        convert(open_reader(path), tmp_path / "to" / name)
    assert not list((tmp_path / "to").iterdir())


def test_stats_count_sizes_and_duplicates(processor: TriptychProcessor, tmp_path: Path) -> None:
    wide = Image.new("RGB", (40, 10))
    wide.save(tmp_path / "wide.png")
    paint(tmp_path, "a.png", 3)
    talks = [
        [user("is there?", "a.png", "wide.png"), answer("no")],
        [user("is there?", "a.png", "wide.png"), answer("no")],
        [user("is there?", "a.png"), answer("no"), user("is there?"), answer("yes")],
        [user("is there?", "gone.png"), answer("no")],
    ]
    path = write_jsonl(tmp_path / "s.jsonl", talks)
    with path.open("a", encoding="utf-8") as file:
        file.write("{}\n")
    stats = measure_records(open_reader(path), processor)
    assert (stats.records, stats.bad, stats.duplicates) == (5, 1, 1)
    assert (stats.images, stats.distinct_images, stats.unreadable_images) == (6, 3, 1)
    found = {histogram.name: histogram for histogram in stats.histograms}
    assert set(found) == {"rounds", "images", "aspect ratio", "tokens", "tiles"}
    assert found["rounds"].counts == (0, 3, 1)
    assert found["images"].counts == (0, 2, 2)
    assert sum(found["tokens"].counts) == 3
    ratios = dict(zip(found["aspect ratio"].edges, found["aspect ratio"].counts, strict=False))
    assert (ratios[0.8], ratios[4.0]) == (3, 2)
    assert draw(found["rounds"])[1].split() == ["1", "█" * 40, "3"]


def test_large_values_are_counted_by_octave() -> None:
    import numpy as np

    values = np.array([1, 30, 31, 32, 33, 900], dtype=np.float64)
    histogram = make_histogram("tokens", values)
    counts = {
        edge: count for edge, count in zip(histogram.edges, histogram.counts, strict=False) if count
    }
    assert counts == {1: 1, 16: 2, 32: 2, 512: 1}


def test_the_command_line_converts_and_draws(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "convert", str(path), str(tmp_path / "o.parquet")]) == 0
    assert "wrote 28 records" in capsys.readouterr().out
    assert main(["data", "stats", str(tmp_path / "o.parquet"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["records"] == 28
    assert main(["data", "stats", str(path)]) == 0
    assert "rounds: mean" in capsys.readouterr().out
    assert main(["data", "stats", str(tmp_path / "none.tar")]) == 2


def test_bytes_of_an_image_are_kept(tmp_path: Path) -> None:
    data = io.BytesIO()
    Image.new("RGB", (3, 3), (9, 8, 7)).save(data, "JPEG")
    (tmp_path / "x.jpeg").write_bytes(data.getvalue())
    path = write_jsonl(tmp_path / "a.jsonl", [[user("q", "x.jpeg"), answer("a")]])
    convert(open_reader(path), tmp_path / "o.tar")
    image = open_reader(tmp_path / "o-000000.tar")[0].images[0]
    assert image == ImagePart(data.getvalue(), tmp_path)
