"""Records chosen by the categories of their answers."""

from pathlib import Path

import pytest
from tests.data.tiny import answer, paint, user, write_jsonl

from triptych.data.corpus import open_sources
from triptych.data.spec import SourceSpec
from triptych.errors import DataError


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Five records: a name, a count, both, neither, and a name that is not in the loss."""
    shown = paint(tmp_path, "a.png", 3)
    name, count = answer("cat", category="name"), answer("2", category="count")
    return write_jsonl(
        tmp_path / "mixed.jsonl",
        [
            [user("What?", shown), name],
            [user("How many?", shown), count],
            [user("What?", shown), name, user("How many?"), count],
            [user("Hello", shown), answer("Hi")],
            [user("What?", shown), answer("dog", category="name", loss=False)],
        ],
    )


def lines(path: Path, *categories: str) -> list[str]:
    source = SourceSpec(path=path, categories=categories)
    reader = open_sources({"mixed": source})["mixed"]
    assert [reader[index].where for index in range(len(reader))] == [
        reader.where(index) for index in range(len(reader))
    ]
    return [reader.where(index).rpartition(":")[2] for index in range(len(reader))]


def test_every_answer_must_be_of_a_category(records: Path) -> None:
    assert lines(records, "name") == ["1"]
    assert lines(records, "count") == ["2"]
    assert lines(records, "name", "count") == ["1", "2", "3"]


def test_a_bad_record_stays_to_be_reported(records: Path) -> None:
    with records.open("a") as file:
        file.write("{\n")
    source = SourceSpec(path=records, categories=("count",))
    reader = open_sources({"mixed": source})["mixed"]
    assert len(reader) == 2
    with pytest.raises(DataError, match=r"mixed\.jsonl:6"):
        reader[1]


def test_unknown_categories_are_answered_with_those_there_are(records: Path) -> None:
    with pytest.raises(DataError, match=r"source 'mixed': .* colour; there are: count, name"):
        open_sources({"mixed": SourceSpec(path=records, categories=("colour",))})
