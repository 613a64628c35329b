import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from triptych.data.readers import open_reader
from triptych.data.schema import Record
from triptych.errors import DataError
from triptych.images.decode import open_image
from triptych.synth.dialogue import easy_vqa
from triptych.synth.dialogue.easy_vqa import Plan, build
from triptych.synth.dialogue.rounds import Style

pytest.importorskip("easy_vqa")

SMALL = Plan(passes=2, limit=40)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "easy"
    build(folder, SMALL)
    return folder


def records(built: Path, name: str) -> Iterator[Record]:
    reader = open_reader(built / name)
    return (reader[index] for index in range(len(reader)))


def test_counts_are_those_of_the_files(built: Path) -> None:
    counts = json.loads((built / "build.json").read_text())["files"]
    assert set(counts) == {file.name for file in built.glob("*.jsonl")}
    for name, count in counts.items():
        assert len(list(records(built, name))) == count > 0


@pytest.mark.parametrize(
    ("name", "images"),
    [
        ("train-looks-single.jsonl", {1}),
        ("train-looks-named.jsonl", {2, 3, 4}),
        ("train-plain-single.jsonl", {1}),
        ("train-plain-named.jsonl", {2, 3, 4}),
        ("train-full-single.jsonl", {1}),
        ("train-full-named.jsonl", {2, 3, 4}),
        ("train-talk.jsonl", {2, 3, 4}),
        ("test-single.jsonl", {1}),
        ("test-multi.jsonl", {2, 3, 4}),
        ("test-talk.jsonl", {2, 3, 4}),
        ("test-looks-single.jsonl", {1}),
        ("test-looks-named.jsonl", {2, 3, 4}),
    ],
)
def test_numbers_of_images(built: Path, name: str, images: set[int]) -> None:
    assert {len(one.images) for one in records(built, name)} == images


def test_splits_do_not_mix(built: Path) -> None:
    for file in built.glob("*.jsonl"):
        split = file.name.split("-")[0]
        names = {str(image.image) for one in records(built, file.name) for image in one.images}
        assert all(name.startswith(f"images/{split}-") for name in names)


def test_records_say_where_they_come_from(built: Path) -> None:
    for file in built.glob("*.jsonl"):
        ids = set()
        for one in records(built, file.name):
            assert (one.source, one.license) == ("easy-vqa 1.0", "MIT")
            assert one.id is not None
            assert one.id.startswith(f"easy-vqa/{file.stem}/")
            ids.add(one.id)
        assert len(ids) == sum(1 for _ in records(built, file.name))


def test_answers_have_their_category(built: Path) -> None:
    for one in records(built, "train-full-named.jsonl"):
        for message in one.messages[1::2]:
            assert message.category == easy_vqa.category(message.text)


@pytest.mark.parametrize("name", ["train-looks-named", "test-looks-named", "test-looks-single"])
def test_looks_are_colours_and_shapes_only(built: Path, name: str) -> None:
    found = {
        message.category
        for one in records(built, f"{name}.jsonl")
        for message in one.messages[1::2]
    }
    assert found == {"colour", "shape"}


def test_plain_questions_have_no_negation(built: Path) -> None:
    found = records(built, "train-plain-single.jsonl")
    assert {one.messages[1].text for one in found} == {"yes", "no"}
    texts = [one.messages[0].text for one in found]
    assert not any({"no", "not"} & set(text.split()) for text in texts)
    assert any(
        {"no", "not"} & set(one.messages[0].text.split())
        for one in records(built, "train-full-single.jsonl")
    )


def test_held_out_single_is_every_question_as_it_is(built: Path) -> None:
    asked = [one for one in easy_vqa.read_questions("test") if one.image < 40]
    found = [
        (one.messages[0].text, one.messages[1].text) for one in records(built, "test-single.jsonl")
    ]
    assert found == [(one.text, one.answer) for one in asked]


def test_named_conversations_ask_once_about_one_of_the_images(built: Path) -> None:
    for one in records(built, "train-full-named.jsonl"):
        question, _ = one.messages
        assert len(question.images) == len(one.images) > 1
        assert any(question.text.endswith(f"image {n + 1}") for n in range(len(one.images)))


@pytest.mark.parametrize("name", ["test-multi.jsonl", "train-full-single.jsonl"])
def test_each_image_is_asked_about_once(built: Path, name: str) -> None:
    """So that no answer can be read off the ones before it."""
    for one in records(built, name):
        asked = [message.text for message in one.messages[0::2]]
        assert len(asked) == len(one.images)
        for number in range(1, len(one.images) + 1):
            named = [text for text in asked if f"image {number}" in text.lower()]
            assert len(named) == 1 or len(one.images) == 1


def test_judged_conversations_have_all_images_from_the_start(built: Path) -> None:
    for one in records(built, "test-multi.jsonl"):
        assert len(one.messages[0].images) == len(one.images)


def test_long_conversations_ask_more_about_an_image() -> None:
    talk = easy_vqa.files(replace(SMALL, talk=3))["train-talk.jsonl"]
    assert max(len(one.messages) for one in talk) > 2 * 4


def test_images_open_and_are_those_of_the_package(built: Path) -> None:
    assert len(list((built / "images").iterdir())) == 80
    first = next(iter(records(built, "train-full-single.jsonl"))).images[0]
    assert open_image(first.location).size == (64, 64)
    number = int(str(first.image).removesuffix(".png").rpartition("-")[2])
    source = easy_vqa.image_files("train")[number]
    assert (built / str(first.image)).read_bytes() == source.read_bytes()


def test_the_same_plan_gives_the_same_bytes(built: Path, tmp_path: Path) -> None:
    build(tmp_path / "again", SMALL)
    for file in built.glob("*.json*"):
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


def test_another_seed_changes_training_files_only(built: Path, tmp_path: Path) -> None:
    build(tmp_path / "other", replace(SMALL, seed=1))
    for file in built.glob("*.jsonl"):
        same = (tmp_path / "other" / file.name).read_bytes() == file.read_bytes()
        assert same == file.name.startswith("test-")


def test_a_built_folder_is_left_as_it_is(built: Path) -> None:
    before = (built / "train-full-named.jsonl").stat().st_mtime_ns
    assert build(built, SMALL)["test-single.jsonl"] > 0
    assert (built / "train-full-named.jsonl").stat().st_mtime_ns == before


def test_other_options_do_not_overwrite(tmp_path: Path) -> None:
    tiny = Plan(passes=1, limit=5)
    build(tmp_path / "x", tiny)
    with pytest.raises(DataError, match="built with other options"):
        build(tmp_path / "x", replace(tiny, seed=3))
    build(tmp_path / "x", replace(tiny, seed=3), replace_other=True)
    assert json.loads((tmp_path / "x" / "build.json").read_text())["plan"]["seed"] == 3


def test_a_strangers_folder_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="not written by a builder"):
        build(tmp_path, SMALL, replace_other=True)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="weights"):
        build(tmp_path / "x", Plan(limit=5, style=Style(images={1: 1})))
    assert list(tmp_path.iterdir()) == []
