import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from triptych.cli.main import main
from triptych.data.boxes import Frame, read_boxes, read_points
from triptych.data.readers import open_reader
from triptych.data.schema import Record
from triptych.images.decode import content_hash, open_image
from triptych.synth.marks.drawing import Style, Thing, choose_things, draw_marks, tell_marks
from triptych.synth.marks.objects import Asking, MarkedObjects
from triptych.synth.marks.questions import ask_marks
from triptych.synth.pipeline import build

SIZE = (320, 240)
COLOURS = {
    "red disc": (255, 0, 0),
    "green disc": (0, 255, 0),
    "blue disc": (0, 0, 255),
    "black disc": (0, 0, 0),
}


def scene(seed: int) -> tuple[Image.Image, list[Thing]]:
    """Four discs of different colours in different corners, and where they are."""
    rng = random.Random(seed)
    picture = Image.new("RGB", SIZE, (255, 255, 200 + seed % 50))
    pen = ImageDraw.Draw(picture)
    corners = [(x, y) for x in (20, 200) for y in (15, 140)]
    rng.shuffle(corners)
    things = []
    for (label, colour), (x, y) in zip(COLOURS.items(), corners, strict=True):
        side = rng.randint(40, 70)
        left, top = x + rng.randint(0, 20), y + rng.randint(0, 15)
        pen.ellipse((left, top, left + side, top + side), fill=colour)
        things.append(Thing(label, (left, top, left + side + 1, top + side + 1)))
    return picture, things


@pytest.mark.parametrize("seed", range(30))
def test_answers_are_true_of_the_picture(seed: int) -> None:
    """The colour under the middle of a mark's box says what the thing is."""
    picture, found = scene(seed)
    rng = random.Random(seed)
    things = choose_things(found, 10, rng)
    by_number = dict(enumerate(things, 1))
    centres = {n: thing.centre for n, thing in by_number.items()}

    def label(number: int) -> str:
        pixel = picture.getpixel(tuple(map(int, centres[number])))
        return next(name for name, colour in COLOURS.items() if colour == pixel)

    asked = ask_marks(things, SIZE, 6, rng)
    assert len({one.category for one in asked}) == len(asked) >= 5
    for one in asked:
        numbers = [int(n) for n in re.findall(r"\d+", one.question)]
        if one.category == "name":
            assert one.answer == label(numbers[0])
        elif one.category == "find":
            assert label(int(one.answer)) in one.question
        elif one.category == "list":
            assert one.answer.splitlines() == [f"{n}: {label(n)}" for n in by_number]
        elif one.category == "relation":
            (ax, ay), (bx, by) = (centres[n] for n in numbers)
            sides = {"left of": ax < bx, "right of": ax > bx, "above": ay < by, "below": ay > by}
            (true,) = (sides[side] for side in sides if side in one.question)
            assert one.answer == ("yes" if true else "no")
        elif one.category == "direction":
            turned = one.question.startswith("In which direction from")
            (ax, ay), (bx, by) = (centres[n] for n in (numbers[::-1] if turned else numbers))
            assert ("left" in one.answer) <= (ax < bx)
            assert ("right" in one.answer) <= (ax > bx)
            assert ("above" in one.answer) <= (ay < by)
            assert ("below" in one.answer) <= (ay > by)
        else:
            axis = 0 if "left" in one.question or "right" in one.question else 1
            end = max if "right" in one.question or "bottom" in one.question else min
            assert int(one.answer) == end(centres, key=lambda n: centres[n][axis])


def test_yes_is_as_frequent_as_no() -> None:
    answers = []
    for seed in range(300):
        rng = random.Random(seed)
        asked = ask_marks(choose_things(scene(seed)[1], 10, rng), SIZE, 6, rng)
        answers += [one.answer for one in asked if one.category == "relation"]
    assert 0.4 < answers.count("yes") / len(answers) < 0.6


@pytest.mark.parametrize("style", ["box", "point", "outline"])
def test_marks_are_drawn_on_their_things(style: Style) -> None:
    picture, things = scene(1)
    masks = []
    for thing in things:
        mask = Image.new("L", SIZE)
        ImageDraw.Draw(mask).ellipse(thing.box, fill=255)
        masks.append(Thing(thing.label, thing.box, mask))
    before = np.asarray(picture).astype(int)
    drawn = draw_marks(picture, masks, style)
    assert np.array_equal(np.asarray(picture), before), "the picture itself is left as it is"
    changed = np.abs(np.asarray(drawn).astype(int) - before).sum(axis=2) > 0
    for thing in things:
        left, top, right, bottom = (int(side) for side in thing.box)
        assert changed[top - 3 : bottom + 3, left - 3 : right + 3].any()
        changed[top - 3 : bottom + 14, left - 3 : right + 14] = False
    assert not changed.any(), "nothing is drawn elsewhere"


def test_numbers_differ_and_stay_inside() -> None:
    picture = Image.new("RGB", SIZE, "white")
    corner = Thing("corner", (300, 220, 320, 240))
    one = np.asarray(draw_marks(picture, [corner], "point"))
    other = Thing("first", (0, 0, 20, 20))
    two = np.asarray(draw_marks(picture, [other, corner], "point"))
    assert (one[215:, 295:] != 255).any()
    assert (one[215:, 295:] != two[215:, 295:]).any(), "1 is not 2"


def test_marks_as_text_say_where_things_are() -> None:
    _, things = scene(2)
    frame = Frame(*SIZE)
    boxes = read_boxes(tell_marks(things, SIZE, "boxes"), frame)
    points = read_points(tell_marks(things, SIZE, "points"), frame)
    for thing, box, point in zip(things, boxes, points, strict=True):
        assert np.abs(np.subtract(box, thing.box)).max() < 0.011 * max(SIZE)
        assert np.abs(np.subtract(point, thing.centre)).max() < 0.011 * max(SIZE)


def test_the_point_of_a_ring_is_on_the_ring() -> None:
    mask = Image.new("L", SIZE)
    ImageDraw.Draw(mask).ellipse((50, 50, 150, 150), outline=255, width=8)
    x, y = Thing("ring", (50, 50, 151, 151), mask).point
    assert mask.getpixel((int(x), int(y))) == 255


def test_things_on_top_of_each_other_are_not_both_marked() -> None:
    things = [Thing("a", (0, 0, 50, 50)), Thing("b", (5, 5, 50, 50)), Thing("c", (100, 0, 150, 50))]
    for seed in range(10):
        assert len(choose_things(things, 10, random.Random(seed))) == 2


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty pictures with boxes; one is cut, one is missing, one has another size than it says."""
    folder = tmp_path_factory.mktemp("annotated")
    lines = []
    for number in range(30):
        picture, things = scene(number)
        picture.save(folder / f"{number}.png")
        objects = [{"label": thing.label, "box": list(thing.box)} for thing in things]
        lines.append({"image": f"{number}.png", "width": 320, "height": 240, "objects": objects})
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:300])
    (folder / "4.png").unlink()
    lines[5]["width"] = 100
    lines[6]["objects"] = [{"label": "x", "box": [0, 0, 9, 9], "polygon": [[0, 0], [1, 1]]}]
    lines[7]["objects"] = [{"label": "x", "box": [0, 0, 99, 99]}]
    (folder / "objects.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def pixels(image: str | bytes | Path) -> str:
    return content_hash(open_image(image))


def read(folder: Path, pattern: str) -> list[Record]:
    found = []
    for file in sorted(folder.glob(pattern)):
        reader = open_reader(file)
        found += [reader[index] for index in range(len(reader))]
    return found


def test_annotated_images_become_records(annotated: Path, tmp_path: Path) -> None:
    asking = Asking(questions=3, as_text=0.5)
    file = annotated / "objects.jsonl"
    built = build(MarkedObjects(file, None, "scenes", "CC0-1.0", 0, asking, 0.3), tmp_path / "x")
    records = read(tmp_path / "x", "t*.jsonl")
    assert {r.license for r in records} == {"CC0-1.0"}
    sides = {
        split: {pixels(r.images[0].location) for r in read(tmp_path / "x", f"{split}-*")}
        for split in ("train", "test")
    }
    assert sides["train"].isdisjoint(sides["test"])
    assert min(map(len, sides.values())) >= 3
    plain = {pixels(annotated / f"{n}.png") for n in range(30) if n not in (3, 4)}
    for record in read(tmp_path / "x", "*-text.jsonl"):
        assert pixels(record.images[0].location) in plain, "the picture as it is"
        assert record.messages[0].text.startswith("Marks: 1 [")
    for record in read(tmp_path / "x", "*-drawn.jsonl"):
        assert pixels(record.images[0].location) not in plain
    lines = map(json.loads, (tmp_path / "x/quarantine.jsonl").read_text().splitlines())
    reasons = [line["reason"] for line in lines]
    assert built.manifest.quarantined == len(reasons) == 5
    found = ("truncated", "no such image", "says 100x240", "at least 3 points", "has 1 things")
    for wanted in found:
        assert sum(wanted in reason for reason in reasons) == 1, (wanted, reasons)


def test_the_verb(annotated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["data", "build", "marks", str(annotated / "objects.jsonl"), "--workers", "1"]
    assert main([*command, "--out", str(tmp_path / "x"), "--license", "CC0-1.0"]) == 0
    assert "train-drawn.jsonl" in capsys.readouterr().out
    assert main(["data", "build", "marks", "gone.json", "--out", str(tmp_path / "y")]) == 2
    assert "gone.json: no such file" in capsys.readouterr().err


def test_coco_polygons_become_masks(tmp_path: Path) -> None:
    picture, things = scene(9)
    picture.save(tmp_path / "a.png")
    annotations = [
        {
            "image_id": 1,
            "category_id": number,
            "bbox": [left, top, right - left, bottom - top],
            "segmentation": [[left, top, right, top, right, bottom]],
        }
        for number, (left, top, right, bottom) in enumerate(thing.box for thing in things)
    ]
    coco = {
        "images": [{"id": 1, "file_name": "a.png", "width": 320, "height": 240}],
        "annotations": annotations,
        "categories": [{"id": n, "name": thing.label} for n, thing in enumerate(things)],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    builder = MarkedObjects(tmp_path / "coco.json", None, "coco", "CC0-1.0", test_share=0)
    assert build(builder, tmp_path / "x").manifest.quarantined == 0
    assert {r.messages[1].category for r in read(tmp_path / "x", "t*.jsonl")} <= {
        "name", "find", "list", "relation", "furthest", "direction"
    }  # fmt: skip
