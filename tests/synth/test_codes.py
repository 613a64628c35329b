from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from triptych.cli.main import main
from triptych.data.readers import open_reader
from triptych.data.schema import Record
from triptych.errors import DataError
from triptych.synth.ocr.codes import Plan, build, draw, pages

SMALL = Plan(train=24, test=16)


def answers(folder: Path, split: str) -> list[tuple[Record, str]]:
    records = open_reader(folder / f"{split}.jsonl", "jsonl", None)
    found = [records[index] for index in range(len(records))]
    return [(record, record.messages[-1].text) for record in found]


def test_a_folder_of_pages_whose_codes_are_held_out(tmp_path: Path) -> None:
    assert build(tmp_path / "codes", SMALL) == {"train.jsonl": 24, "test.jsonl": 16}
    train, test = (answers(tmp_path / "codes", split) for split in ("train", "test"))
    codes = [code for _, code in train + test]
    assert len(set(codes)) == 40
    assert {len(code) for code in codes} == {6}
    categories = [record.messages[-1].category for record, _ in test]
    assert {categories.count(f"{height} px") for height in SMALL.heights} == {4}
    for record, _ in train + test:
        page = Image.open(str(record.images[0].location))
        assert max(page.size) == 192
        assert len(record.images) == 1


def test_the_print_is_whole_and_has_its_height() -> None:
    for page in pages(SMALL, "train"):
        pixels = np.asarray(draw(page)).astype(int)
        rows, columns = np.nonzero(np.abs(pixels - page.paper) > 30)
        # A Q reaches below the line.
        assert page.height - 2 <= rows.max() - rows.min() + 1 <= 1.25 * page.height + 2
        assert abs(int(rows.min()) - page.place[1]) <= 1
        assert 0 <= int(columns.min()) - page.place[0] <= 4, "a side bearing at most"
        assert columns.max() - columns.min() > 2.5 * page.height, "six characters side by side"


def test_the_pixels_alone_decide_the_answer() -> None:
    """Equal questions have different answers, and different codes different pictures."""
    made = list(pages(SMALL, "train"))
    by_question: dict[str, set[str]] = {}
    for page in made:
        by_question.setdefault(page.question, set()).add(page.code)
    assert all(len(codes) > 3 for codes in by_question.values())
    one = made[0]
    other = type(one)(**(vars(one) | {"code": one.code[::-1]}))
    assert one.code != other.code
    assert (np.asarray(draw(one)) != np.asarray(draw(other))).any()


def test_seeds_change_training_only(tmp_path: Path) -> None:
    first, again, other = (list(pages(Plan(seed, 9, 5), "train")) for seed in (0, 0, 1))
    assert first == again != other
    tests = [list(pages(Plan(seed, 9, 5), "test")) for seed in (0, 1)]
    assert tests[0] == tests[1]
    assert np.array_equal(np.asarray(draw(first[0])), np.asarray(draw(again[0])))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alphabet": "01", "length": 3}, "2 characters make 8 codes of 3, too few for 40 pages"),
        ({"page": 32, "heights": (20,)}, "fits on no page of 32 pixels"),
    ],
)
def test_what_cannot_be_built_is_explained(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        build(tmp_path / "codes", Plan(**(vars(SMALL) | changes)))
    assert not (tmp_path / "codes").exists()


def test_the_verb_builds_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["data", "build", "codes", "--out", str(tmp_path / "c"), "--train", "8"]
    command += ["--test", "4", "--workers", "1", "--heights", "8,12", "--alphabet", "0123456789"]
    assert main(command) == 0
    assert "train.jsonl" in capsys.readouterr().out
    before = (tmp_path / "c" / "build.json").stat().st_mtime_ns
    assert main(command) == 0
    assert (tmp_path / "c" / "build.json").stat().st_mtime_ns == before
    assert main([*command[:-2], "--heights", "2"]) == 2
    assert "expected numbers from 4 to" in capsys.readouterr().err
