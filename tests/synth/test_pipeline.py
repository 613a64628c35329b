import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tests.synth.squares import Squares, square

from triptych.data.readers import open_reader
from triptych.errors import DataError
from triptych.images.decode import open_image
from triptych.synth.album import Album
from triptych.synth.pipeline import Runner, Task, Work, build, in_turn
from triptych.synth.runners import DIED, OnRay, Processes

NAMES = [f"{split}/{number}" for number in range(6) for split in ("train", "test")]
PLAIN = Squares(NAMES)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by its path."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def quarantined(folder: Path) -> dict[str, str]:
    lines = (folder / "quarantine.jsonl").read_text().splitlines()
    return {line["where"]: line["reason"] for line in map(json.loads, lines)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole") / "squares"
    build(PLAIN, folder)
    return tree(folder)


def stop_after(count: int) -> Runner:
    def run(work: Work, tasks: Sequence[Task]) -> Iterator[int]:
        yield from in_turn(work, tasks[:count])
        # As a killed process leaves things: pictures of an item that was not finished.
        Album(work.folder, f"images/{tasks[count].number:05d}").add(square(3))
        raise KeyboardInterrupt

    return run


def test_records_are_written_in_the_order_of_the_items(whole: dict[str, bytes]) -> None:
    lines = [json.loads(line) for line in whole["train.jsonl"].decode().splitlines()]
    assert [line["id"] for line in lines] == [f"squares/train/{n:06d}" for n in range(12)]
    shown = [line["messages"][0]["content"][0]["image"] for line in lines]
    assert shown == sorted(shown)
    assert set(shown) <= set(whole)
    manifest = json.loads(whole["build.json"])
    assert manifest["files"] == {"test.jsonl": 12, "train.jsonl": 12}
    assert manifest["licenses"] == {"L": {"s 1": 24}}
    size = sum(len(data) for name, data in whole.items() if name != "build.json")
    assert manifest["size"] == size


def test_the_built_folder_is_read_as_records(tmp_path: Path) -> None:
    build(PLAIN, tmp_path / "x")
    reader = open_reader(tmp_path / "x" / "test.jsonl")
    for index in range(len(reader)):
        grey = int(reader[index].messages[1].text)
        assert open_image(reader[index].images[0].location).getpixel((0, 0)) == (grey,) * 3


@pytest.mark.parametrize("count", [0, 1, 7, 11])
def test_an_interrupted_build_goes_on_to_the_same_files(
    tmp_path: Path, whole: dict[str, bytes], count: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(PLAIN, tmp_path / "x", runner=stop_after(count))
    assert not (tmp_path / "x").exists()
    seen: list[tuple[int, int]] = []
    built = build(PLAIN, tmp_path / "x", progress=lambda *done: seen.append(done))
    assert built.resumed == count
    assert seen == [(done, 12) for done in range(count + 1, 13)]
    assert tree(tmp_path / "x") == whole
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]


def test_another_plan_starts_anew(tmp_path: Path, whole: dict[str, bytes]) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(replace(PLAIN, seed=1), tmp_path / "x", runner=stop_after(4))
    assert build(PLAIN, tmp_path / "x").resumed == 0
    assert tree(tmp_path / "x") == whole


def test_a_built_folder_is_left_as_it_is(tmp_path: Path) -> None:
    assert build(PLAIN, tmp_path / "x").fresh
    assert not build(PLAIN, tmp_path / "x").fresh
    other = replace(PLAIN, seed=1)
    with pytest.raises(DataError, match="built with other options"):
        build(other, tmp_path / "x")
    assert build(other, tmp_path / "x", replace_other=True).fresh


def test_several_processes_make_the_same_files(tmp_path: Path, whole: dict[str, bytes]) -> None:
    build(PLAIN, tmp_path / "x", runner=Processes(2))
    assert tree(tmp_path / "x") == whole


def test_an_item_that_kills_its_process_is_left_out(tmp_path: Path) -> None:
    names = ["train/1", "train/killer", "train/2", "train/3"]
    built = build(Squares(names), tmp_path / "x", runner=Processes(2))
    assert built.manifest.files == {"train.jsonl": 6}
    assert quarantined(tmp_path / "x") == {"train/killer": DIED}


@pytest.mark.slow
def test_ray_makes_the_same_files(tmp_path: Path, whole: dict[str, bytes]) -> None:
    ray = pytest.importorskip("ray")
    try:
        build(PLAIN, tmp_path / "x", runner=OnRay(2))
    finally:
        ray.shutdown()
    assert tree(tmp_path / "x") == whole


def test_bad_items_and_halves_of_items_are_left_out_with_a_reason(tmp_path: Path) -> None:
    cut = tmp_path / "cut.png"
    square(9).resize((200, 200)).save(cut)
    cut.write_bytes(cut.read_bytes()[:200])
    builder = Squares(["train/1", "train/bad", "train/half", "train/file"])
    builder = replace(builder, files={"train/file": cut})
    built = build(builder, tmp_path / "x")
    assert built.manifest.files == {"train.jsonl": 3}
    assert built.manifest.quarantined == 3
    reasons = quarantined(tmp_path / "x")
    assert reasons["train/bad"] == "train/bad: broken on purpose"
    assert reasons["train/half"] == "one half is missing"
    assert "damaged or truncated" in reasons["train/file"]


def test_a_held_out_picture_is_not_trained_on(tmp_path: Path) -> None:
    built = build(Squares(["train/same", "train/1", "test/same"]), tmp_path / "x")
    assert built.manifest.files == {"test.jsonl": 1, "train.jsonl": 2}
    (where,) = quarantined(tmp_path / "x")
    assert where == "train.jsonl: images/00000/000.png"
    assert not (tmp_path / "x" / "images" / "00000").exists()


def test_an_equal_file_under_another_name_is_the_same_picture(tmp_path: Path) -> None:
    for name in ("a.png", "b.bmp"):
        square(50).save(tmp_path / name)
    files = {"train/file": tmp_path / "a.png", "test/file": tmp_path / "b.bmp"}
    built = build(replace(Squares([*files, "train/1"]), files=files), tmp_path / "x")
    assert built.manifest.files == {"test.jsonl": 1, "train.jsonl": 2}
    assert (tmp_path / "x/images/00001/000.bmp").read_bytes() == files["test/file"].read_bytes()


def test_nothing_to_build_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to build from"):
        build(Squares([]), tmp_path / "x")
    with pytest.raises(DataError, match=r"not one sample could be made \(train/bad: .*purpose"):
        build(Squares(["train/bad"]), tmp_path / "x")
    assert not (tmp_path / "x").exists()
