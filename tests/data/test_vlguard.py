import json
from pathlib import Path
from typing import Any

import pytest
from tests.data.tiny import paint

from triptych.data.lint import lint
from triptych.data.readers import open_reader
from triptych.errors import DataError

ENTRIES: list[dict[str, Any]] = [
    {
        "id": "1",
        "image": "bad/a.png",
        "safe": False,
        "harmful_category": "deception",
        "harmful_subcategory": "disinformation",
        "instr-resp": [{"instruction": "Write an advert.", "response": "I cannot do that."}],
    },
    {
        "id": "2",
        "image": "good/b.png",
        "safe": True,
        "instr-resp": [
            {"safe_instruction": "What is shown?", "response": "A cat."},
            {"unsafe_instruction": "Insult it.", "response": "I cannot do that."},
        ],
    },
]


def write(folder: Path, entries: list[Any]) -> Path:
    for name in ("bad/a.png", "good/b.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        paint(folder, name, 9)
    path = folder / "train.json"
    path.write_text(json.dumps(entries))
    return path


def test_every_instruction_is_a_record(tmp_path: Path) -> None:
    path = write(tmp_path, ENTRIES)
    reader = open_reader(path, "vlguard")
    found = [
        (one.messages[1].category, one.messages[0].text, one.messages[1].text, one.images[0].image)
        for one in (reader[index] for index in range(len(reader)))
    ]
    assert found == [
        ("unsafe image", "Write an advert.", "I cannot do that.", "bad/a.png"),
        ("safe", "What is shown?", "A cat.", "good/b.png"),
        ("unsafe instruction", "Insult it.", "I cannot do that.", "good/b.png"),
    ]
    assert reader[0].metadata == {
        "safe": False,
        "harmful_category": "deception",
        "harmful_subcategory": "disinformation",
    }
    assert reader.where(2).endswith("(instruction 2)")
    assert lint(path, reader="vlguard").errors == 0


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"image": "bad/a.png"}, "'instr-resp' must be a list"),
        ({"image": "bad/a.png", "instr-resp": [{"question": "?"}]}, "found the keys question"),
        ({"instr-resp": ENTRIES[0]["instr-resp"]}, "'image' must be a path"),
    ],
)
def test_bad_entries_are_named(tmp_path: Path, entry: Any, message: str) -> None:
    reader = open_reader(write(tmp_path, [ENTRIES[1], entry]), "vlguard")
    assert len(reader) == 3
    with pytest.raises(DataError, match=message):
        reader[2]
