"""Annotations as dialogue: what is asked, what is answered, and where it is."""

import json
from pathlib import Path
from typing import Any

import pytest

from triptych.data.boxes import Frame, read_boxes, read_points
from triptych.data.readers import READERS, open_reader
from triptych.data.readers.words import describe
from triptych.data.record import Record
from triptych.errors import DataError

CAT = {"label": "cat", "box": [0, 0, 50, 50], "points": [[0, 0], [50, 25]]}
DOG = {"label": "dog", "box": [50, 50, 100, 100], "points": [[60, 60]]}
SCENE = {"image": "a.png", "width": 100, "height": 100, "objects": [CAT, DOG, CAT]}
FRAME = Frame(100, 100)


def convert(reader: str, **changes: Any) -> Record:
    return READERS[reader].convert({**SCENE, **changes}, "f:1", None)


def said(record: Record) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in record.messages]


def test_detection_lists_the_boxes_of_each_label() -> None:
    record = convert("detection")
    lines = record.messages[1].text.splitlines()
    assert [line.split(" ")[0] for line in lines] == ["cat", "dog"]
    assert read_boxes(lines[0], FRAME) == [(0, 0, 50, 50)] * 2
    assert [image.image for image in record.messages[0].images] == ["a.png"]


def test_grounding_asks_for_the_place_and_for_the_phrase() -> None:
    objects = [dict(CAT, label="the cat"), dict(DOG, label="a dog on the left")]
    record = convert("grounding", objects=objects)
    assert said(record)[0] == ("user", "Where is the cat? Give the box.")
    assert read_boxes(record.messages[1].text, FRAME) == [(0, 0, 50, 50)]
    assert read_boxes(record.messages[2].text, FRAME) == [(50, 50, 100, 100)]
    assert said(record)[3] == ("assistant", "a dog on the left")
    assert len(record.images) == 1


def test_pose_gives_the_points_of_each_object() -> None:
    lines = convert("pose").messages[1].text.splitlines()
    assert [read_points(line, FRAME) for line in lines[:2]] == [[(0, 0), (50, 25)], [(60, 60)]]


def test_layout_counts_regions_and_reads_their_words() -> None:
    objects = [dict(CAT, label="title", text="On cats"), dict(DOG, label="figure")]
    record = convert("layout", objects=[*objects, dict(DOG, label="figure")])
    lines = record.messages[1].text.splitlines()
    assert lines[0].startswith("1 title: [")
    assert lines[1].startswith("2 figure: [")
    assert record.messages[3].text.startswith("On cats [0.00,")


def test_language_needs_no_image(tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    entries = [
        {"system_prompt": "Be exact.", "question": "Q?", "response": "A"},
        {"instruction": "Add.", "input": "1 2", "output": "3"},
    ]
    path.write_text("\n".join(map(json.dumps, entries)), "utf-8")
    reader = open_reader(path, "language")
    assert said(reader[0]) == [("system", "Be exact."), ("user", "Q?"), ("assistant", "A")]
    assert said(reader[1]) == [("user", "Add.\n\n1 2"), ("assistant", "3")]


def test_coco_instances_are_read_as_they_are(tmp_path: Path) -> None:
    coco = {
        "images": [{"id": 4, "file_name": "x.jpg", "width": 100, "height": 100}],
        "annotations": [
            {"image_id": 4, "category_id": 2, "bbox": [10, 20, 30, 40],
             "keypoints": [10, 20, 2, 0, 0, 0, 30, 40, 1]}],
        "categories": [{"id": 2, "name": "person"}],
    }  # fmt: skip
    (tmp_path / "i.json").write_text(json.dumps(coco), "utf-8")
    record = open_reader(tmp_path / "i.json", "detection")[0]
    assert read_boxes(record.messages[1].text, FRAME) == [(10, 20, 40, 60)]
    pose = open_reader(tmp_path / "i.json", "pose")[0]
    assert read_points(pose.messages[1].text, FRAME) == [(10, 20), (30, 40)], (
        "unseen points left out"
    )


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (1, "EXIT"),
        (2, "'EXIT' at the top right"),
        (3, "'EXIT' 0.75 of the way across and 0.20 down"),
        (4, "'EXIT' starting at (0.5, 0.1) and extending (0.5, 0.2)"),
        (5, "'EXIT' starting at (0.500, 0.100) and extending (0.500, 0.200)"),
        (6, "<text>EXIT</text><box>0.500, 0.100, 1.000, 0.300</box>"),
    ],
)
def test_the_six_levels_of_captions(level: int, expected: str) -> None:
    entry = {"image": "a.png", "width": 200, "height": 100, "level": level,
             "objects": [{"text": "EXIT", "box": [100, 10, 200, 30]}]}  # fmt: skip
    record = READERS["words"].convert(entry, "f:1", None)
    assert record.messages[0].role == "document"
    assert record.messages[0].text == expected
    with pytest.raises(DataError, match="level 7 is not one of 1 to 6"):
        describe([("EXIT", (0, 0, 1, 1))], 7)
