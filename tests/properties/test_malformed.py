"""Malformed records: thousands of variants, a clear error for each, never anything else."""

import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from triptych.data.readers import READERS, open_reader
from triptych.data.schema import Record
from triptych.errors import DataError

VARIANTS = 300
LEAST_ERRORS = 2000
BOX = {"label": "cat", "box": [1, 2, 30, 40], "points": [[1, 2], [3, 4]], "text": "cat"}
SCENE = {"image": "a.png", "width": 100, "height": 80, "objects": [BOX, dict(BOX, label="dog")]}
ENTRIES: dict[str, Any] = {
    "jsonl": {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [
                {"type": "image", "image": "a.png"}, {"type": "text", "text": "What?"}]},
            {"role": "assistant", "content": "Red.", "loss": True, "category": "colour"},
        ],
        "id": "1",
        "metadata": {"a": 1},
    },
    "llava": {
        "id": 1, "image": ["a.png", "b.png"],
        "conversations": [{"from": "human", "value": "<image>Q<image>"},
                          {"from": "gpt", "value": "A"}],
    },
    "sharegpt": {
        "messages": [{"role": "user", "content": "<image>Q"},
                     {"role": "assistant", "content": "A"}],
        "images": ["a.png"],
    },
    "documents": {"texts": ["a", None, "b"], "images": [None, "a.png", None]},
    "captions": {"image": "a.png", "caption": ["A cat.", "Cat."], "id": 3},
    "vqa": {"image": "a.png", "question": "Q?", "answers": [{"answer": "x"}, {"answer": "y"}]},
    "mimicit": {"images": ["a.png"], "rounds": [{"instruction": "Q", "answer": "A"}]},
    "sparkles": {"dialogue": [
        {"role": "user", "content": "See IMAGE#1.", "images": [{"image_id": 1, "caption": "c"}]},
        {"role": "assistant", "content": "IMAGE#1 is red."}]},
    "preference": {"prompt": "Q", "images": ["a.png"], "chosen": "A", "rejected": [
        {"role": "assistant", "content": "B"}]},
    "detection": SCENE, "grounding": SCENE, "pose": SCENE, "layout": SCENE,
    "language": {"instruction": "Q", "input": "i", "output": "A", "system_prompt": "s"},
    "words": {**SCENE, "level": 3},
    "vlguard": {"id": "1", "image": "a.png", "safe": False, "harmful_category": "privacy",
        "instr-resp": {"instruction": "Read the name.", "response": "I cannot."}},
}  # fmt: skip
MMC4 = {"text_list": ["a", "b"], "image_info": [{"image_name": "a", "matched_text_index": 1}]}
JUNK: list[Any] = [
    None, True, -1, 10**30, 1.5, float("inf"), "", " ", "x" * 5000, "\ud800", "\0", "<image>", [],
    [None], [[]], [1], {}, {"a": None}, {"type": "image"}, {"role": "user"}, b"", b"\xff",
    {1: 2}, ["<image>"] * 3, "data:image/png;base64,!!!", "a\nb",
]  # fmt: skip

Holder = dict[Any, Any] | list[Any]


def holders(value: Any) -> Iterator[tuple[Holder, Any]]:
    """Every place in a nested value, as its container and key."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from holders(value[key])


def spoil(entry: Any, rng: random.Random) -> Any:
    """A copy with one to three things wrong with it."""
    whole = {"entry": copy.deepcopy(entry)}
    for _ in range(rng.choice((1, 1, 2, 3))):
        holder, key = rng.choice(list(holders(whole)))
        action = rng.randrange(5)
        if action == 0 and holder is not whole:
            del holder[key]
        elif action == 1 and isinstance(holder, dict) and holder is not whole:
            holder[f"{key}s"] = holder.pop(key)
        elif action == 2:
            holder[key] = [holder[key]]
        elif action == 3 and isinstance(holder, list):
            holder.insert(key, rng.choice(JUNK))
        else:
            holder[key] = copy.deepcopy(rng.choice(JUNK))
        if "entry" not in whole:
            return None
    return whole["entry"]


def attempt(convert: Callable[..., Record], entry: Any) -> bool:
    """Whether the entry was refused; every other end of it fails the test."""
    try:
        record = convert(entry, "f.jsonl:7", Path("/data"))
    except DataError as error:
        message = str(error)
        assert message.startswith("f.jsonl:7"), message
        assert len(message) > len("f.jsonl:7: ") + 10, message
        assert len(message) < 1000, message[:2000]
        message.encode("utf-8")
        return True
    assert isinstance(record, Record)
    return False


def test_thousands_of_malformed_entries_are_each_explained() -> None:
    assert set(ENTRIES) == set(READERS)
    refused = 0
    for name, entry in [*ENTRIES.items(), ("documents", MMC4)]:
        convert = READERS[name].convert
        assert not attempt(convert, entry), f"the entry of {name} itself"
        rng = random.Random(name)
        own = sum(attempt(convert, spoil(entry, rng)) for _ in range(VARIANTS))
        assert own > VARIANTS // 4, f"{name}: only {own} variants are malformed"
        refused += own
    assert refused >= LEAST_ERRORS


COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 10, "height": 10}],
    "annotations": [
        {"id": 5, "image_id": 1, "caption": "A.", "category_id": 2, "bbox": [1, 1, 2, 2]}
    ],
    "categories": [{"id": 2, "name": "cat"}],
}


@pytest.mark.parametrize(
    ("reader", "value"),
    [
        ("captions", COCO),
        ("detection", COCO),
        ("mimicit", {"data": {"A": {**ENTRIES["mimicit"]["rounds"][0], "image_ids": ["X"]}}}),
        ("jsonl", [ENTRIES["jsonl"]] * 3),
    ],
)
def test_damaged_files_are_explained(tmp_path: Path, reader: str, value: Any) -> None:
    raw = json.dumps(value, indent=1).encode()
    rng = random.Random(reader)
    path = tmp_path / "f.json"
    for _ in range(120):
        cut = rng.randrange(len(raw))
        junk = rng.choice((b"", b"\xff", b'"', b"[", b"}", b"\0", b"null"))
        path.write_bytes(raw[:cut] + junk + raw[cut + rng.randrange(1, 30) :])
        message = str(path)
        try:
            records = open_reader(path, reader)
            for index in range(len(records)):
                records[index]
        except DataError as error:
            message = str(error)
        assert str(path) in message
