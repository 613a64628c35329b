"""A worker's memory does not grow with the records it has read."""

import json
import tracemalloc
from pathlib import Path

import pytest

from triptych.data.readers import open_reader


@pytest.mark.parametrize("count", [3000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_reading_every_record_leaves_nothing_behind(tmp_path: Path, count: int) -> None:
    path = tmp_path / "a.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            part = {"type": "image", "image": f"{number}.png"}
            messages = [{"role": "user", "content": [part]}]
            file.write(json.dumps({"messages": messages, "id": str(number)}) + "\n")
    reader = open_reader(path)
    for index in range(min(count, 100)):
        reader[index]
    tracemalloc.start()
    try:
        for index in range(count):
            reader[index]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000
