from pathlib import Path

import pytest
from tests.data.tiny import answer, paint, user, write_jsonl

from triptych.cli.main import main
from triptych.data.opposed import oppose
from triptych.data.readers import open_reader
from triptych.errors import DataError


def test_the_wrong_answer_is_another_one_of_the_category(tmp_path: Path) -> None:
    paint(tmp_path, "a.png", 1)
    talks = [
        [user("colour?", "a.png"), answer(colour, category="colour")] for colour in ("red", "blue")
    ]
    talks += [[user("shape?", "a.png"), answer("circle", category="shape")]]
    talks += [
        [
            user("first?"),
            answer("red", category="colour"),
            user("and?", "a.png"),
            answer("blue", category="colour"),
        ]
    ]
    path = write_jsonl(tmp_path / "talks.jsonl", talks)
    found = oppose(open_reader(path))
    assert [(one.chosen, one.rejected) for one in found.records] == [
        ("red", "blue"), ("blue", "red"), ("blue", "red"),
    ]  # fmt: skip
    assert [len(one.messages) for one in found.records] == [1, 1, 3]
    assert main(["data", "pairs", str(path), str(tmp_path / "out" / "pairs.jsonl")]) == 0
    again = open_reader(tmp_path / "out" / "pairs.jsonl")
    assert [(one.chosen, one.rejected) for one in (again[k] for k in range(len(again)))] == [
        (one.chosen, one.rejected) for one in found.records
    ]
    assert Path(str(again[0].images[0].location)).is_file()


def test_no_wrong_answer_is_an_error(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "same.jsonl", [[user("is it?"), answer("yes")]] * 3)
    with pytest.raises(DataError, match="none of 3 records"):
        oppose(open_reader(path))
