import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from triptych.data.readers import open_reader
from triptych.data.readers.llava import UNTAGGED, convert_entry
from triptych.data.readers.offsets import index_objects
from triptych.data.schema import ImagePart, TextPart
from triptych.errors import DataError


def entry(value: str, image: Any = None, **extra: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": value}, {"from": "gpt", "value": "It is."}]
    plain: dict[str, Any] = {"id": 1, "conversations": turns, **extra}
    return plain if image is None else {**plain, "image": image}


def test_jsonl_reads_any_record_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [
        json.dumps({"messages": [{"role": "user", "content": f"größe {k}"}]}) for k in range(50)
    ]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n\n".join(lines).encode())
    reader = open_reader(path)
    assert len(reader) == 50
    assert reader[49].messages[0].text == "größe 49"
    assert reader[0].messages[0].text == "größe 0"
    assert reader[3].where == reader.where(3) == f"{path}:7"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"messages": [', "not JSON"),
        (b'{"messages": NaN}', "NaN"),
        (b'{"messages": "\xff"}', "not UTF-8"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"[1]", "a record is"),
        (b"null", "a record is"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, expected: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"messages": []}\n' + line + b"\n")
    with pytest.raises(DataError, match=expected) as caught:
        open_reader(path)[1]
    assert str(caught.value).startswith(f"{path}:2")


@pytest.mark.parametrize("indent", [None, 2])
def test_a_list_is_indexed_without_parsing(tmp_path: Path, indent: int | None) -> None:
    path = tmp_path / "a.json"
    texts = ['} ] " \\ { [', "\\", "é\n", '\\"', "[[[", ""]
    path.write_text(json.dumps([entry(text) for text in texts], indent=indent), "utf-8")
    reader = open_reader(path, "llava")
    assert [reader[k].messages[0].text for k in range(len(reader))] == texts
    line = path.read_text("utf-8").splitlines()[int(reader.where(4).rsplit(":", 1)[1]) - 1]
    assert "{" in line


@pytest.mark.parametrize(
    "text",
    ["[]", "[1, 2]", '[{"a": 1}, 2]', '[{"a": 1} {"a": 2}]', '[{"a": 1},]', '[{"a": 1}', '["x"]',
     '[{"a": 1}] x', "", " \n", '[{"a": "unclosed}]'],
)  # fmt: skip
def test_a_list_that_would_lose_something_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, "utf-8")
    with pytest.raises(DataError, match=r"a\.json"):
        index_objects(path)


def test_an_index_holds_no_records(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([entry("x" * 2000) for _ in range(2000)]), "utf-8")
    tracemalloc.start()
    reader = open_reader(path, "llava")
    for k in range(0, len(reader), 100):
        reader[k]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 4_000_000
    assert peak < 1_000_000


def test_a_missing_file_and_an_unknown_reader_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.jsonl: cannot be read"):
        open_reader(tmp_path / "gone.jsonl")
    with pytest.raises(DataError, match="did you mean 'llava'"):
        open_reader(tmp_path / "gone.jsonl", "lava")


def test_llava_tags_take_the_images_in_order() -> None:
    record = convert_entry(
        entry("<image>\nCompare it with <image> and <image>", ["a", "b", "c"]), "f:1", Path("/p")
    )
    assert [part.image if isinstance(part, ImagePart) else part.text
            for part in record.messages[0].content] == [
        "a", "Compare it with ", "b", " and ", "c"]  # fmt: skip
    assert record.id == "1"
    assert record.notes == ()
    assert record.images[0].location == "/p/a"


def test_llava_images_may_arrive_in_any_turn() -> None:
    turns = [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "<image>\none"},
        {"from": "gpt", "value": "1"},
        {"from": "human", "value": "two\n<image>"},
        {"from": "gpt", "value": "2"},
    ]
    record = convert_entry({"image": ["a", "b"], "conversations": turns}, "f:1")
    assert [image.image for image in record.images] == ["a", "b"]
    assert record.messages[3].content[0] == TextPart("two")
    assert record.messages[0].role == "system"


def test_llava_images_without_a_tag_go_first_and_it_is_said() -> None:
    record = convert_entry(entry("What?", ["a", "b"]), "f:1")
    assert [image.image for image in record.messages[0].images] == ["a", "b"]
    assert record.messages[0].content[-1] == TextPart("What?")
    assert record.notes == (UNTAGGED,)


def test_llava_text_alone_is_kept_and_other_keys_are_ignored() -> None:
    record = convert_entry(entry("Hello", model="gpt-4", width=3), "f:1")
    assert record.images == []
    assert record.messages[0].text == "Hello"


@pytest.mark.parametrize(
    ("obj", "expected"),
    [
        (entry("<image> <image>", "a"), "2 <image> tags but 1 images"),
        (entry("<image>", ["a", "b"]), "1 <image> tags but 2 images"),
        (entry("<image>"), "1 <image> tags but 0 images"),
        (entry("x", [1]), "'image' must be"),
        ({"conversations": []}, "at least one turn"),
        ({"messages": []}, "use reader jsonl"),
        ({"conversations": [{"from": "humn", "value": ""}]}, r"conversations\[0\]: 'from'"),
        ({"conversations": [{"from": "human", "value": None}]}, "'value' must be a text"),
        ({"conversations": [{"from": "gpt", "value": "x"}], "image": "a"}, "no human turn"),
        ([], "an object with 'conversations'"),
    ],
)
def test_a_llava_defect_is_named(obj: object, expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        convert_entry(obj, "f:1")


def test_fuzzed_files_give_data_errors_only(tmp_path: Path) -> None:
    whole = json.dumps([entry("<image>\nWhat?", "a.png"), entry("And?")]).encode()
    rng = random.Random(3)
    path = tmp_path / "a.json"
    messages = []
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            place = rng.randrange(len(data))
            data[place : place + rng.randrange(3)] = rng.choice(
                [b"", b'"', b"{", b"}", b"[", b"]", b"\\", b"\xff", b",", b":", b"null", b"\0"]
            )
        path.write_bytes(data)
        for reader in ("llava", "jsonl"):
            try:
                opened = open_reader(path, reader)
                for k in range(len(opened)):
                    opened[k]
            except DataError as error:
                messages.append(str(error))
    assert len(messages) > 500
    assert all(str(path) in message for message in messages)
