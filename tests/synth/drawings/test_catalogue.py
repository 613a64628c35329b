import random
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.synth.tiny_packages import write_drawings

from triptych.errors import DataError
from triptych.synth.drawings.catalogue import Catalogue, Folders, load_catalogue, rotate
from triptych.synth.drawings.drawing import Drawing
from triptych.synth.drawings.questions import ask, find_wrong

SHARE = 0.3


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return tuple(write_drawings(tmp_path_factory.mktemp("packages")).items())


@pytest.fixture(scope="module")
def catalogue(folders: Folders) -> Catalogue:
    return load_catalogue(folders, SHARE)


def everything(catalogue: Catalogue) -> list[Drawing]:
    return [one for found in catalogue.roles.values() for one in found]


def keys(catalogue: Catalogue) -> Mapping[str, set[str]]:
    return {role: {one.concept.key for one in found} for role, found in catalogue.roles.items()}


def test_one_key_joins_all_sources(catalogue: Catalogue) -> None:
    by_key: dict[str, set[str]] = {}
    for one in everything(catalogue):
        by_key.setdefault(one.concept.key, set()).add(f"{one.style.split('/')[-1]} {one.name}")
    assert {"noto red apple", "noto green apple", "openclipart-svg apple"} <= by_key["apple"]
    assert {"noto dog", "noto dog face"} <= by_key["dog"], "a head stands for the animal"
    assert "noto automobile" in by_key["car"], "synonyms are one concept"
    assert "noto cherries" in by_key["cherry"]
    assert "noto red heart" in by_key["red heart"], "no noun: the label itself"
    assert "flag denmark" not in by_key


def test_concepts_are_on_one_side_only(catalogue: Catalogue) -> None:
    found = keys(catalogue)
    assert all(catalogue.roles.values())
    assert found["concept"].isdisjoint(found["train"] | found["design"] | found["style"])
    assert found["design"] | found["style"] <= found["train"]


def test_a_held_out_design_can_be_named_and_was_not_seen(catalogue: Catalogue) -> None:
    trained = {one.name for one in catalogue.roles["train"]}
    seen = {one.content for one in catalogue.roles["train"]}
    for role in ("design", "style"):
        for one in catalogue.roles[role]:
            assert one.name in trained
            assert one.content not in seen
    assert {one.style for one in catalogue.roles["style"]} == {"@iconify-json/openmoji"}
    assert "@iconify-json/openmoji" not in {one.style for one in catalogue.roles["train"]}


def test_a_larger_share_holds_out_more_and_keeps_what_it_held(folders: Folders) -> None:
    few, many = (keys(load_catalogue(folders, share))["concept"] for share in (0.1, 0.6))
    assert few < many


def test_clip_art_is_used_where_its_title_can_be_believed(catalogue: Catalogue) -> None:
    clips = (one for one in everything(catalogue) if one.style == "openclipart-svg")
    used = {one.file.split("svg/", 1)[1] for one in clips}
    assert used == {
        "food/fruit/apple_copy.svg",
        "food/fruit/apple_somebody_02.svg",
        "food/fruit/mango_01.svg",
        "animals/cat_01.svg",
        "animals/dog_01.svg",
        "tools/hammer_01.svg",
    }
    reasons = {
        one.where.split("svg/", 1)[-1].removeprefix("openclipart-svg: "): one.reason
        for one in catalogue.rejected["openclipart-svg"]
    }
    assert "is not the public domain" in reasons["food/pear_secret.svg"]
    assert "is not all English" in reasons["food/fruit/cherry_01.svg"]
    assert "confirm the title 'fox'" in reasons["animals/mouse.svg"]
    assert "names no food" in reasons["food/apple_tree.svg"]
    assert "the same drawing as" in reasons["food/fruit/apple_somebody_01.svg"]


def test_stamps_are_named_by_the_english_line_of_their_caption(catalogue: Catalogue) -> None:
    stamps = [one for one in everything(catalogue) if one.style == "tuxpaint-stamps-default"]
    assert {(one.name, one.kind) for one in stamps} == {("fox", "animal"), ("pear", "food")}
    (bare,) = catalogue.rejected["tuxpaint-stamps-default"]
    assert bare.reason == "it has no caption"


def test_wrong_values_are_wrong_and_each_is_used_once(catalogue: Catalogue) -> None:
    drawings = catalogue.roles["train"]
    wrong = find_wrong(drawings, catalogue.wordnet)
    assert len(wrong.names) == len(drawings)
    for index, name in wrong.names.items():
        assert name != drawings[index].name
        assert not {"apple", drawings[index].concept.key} <= {*name.split()}
    numbers = [index for index, one in enumerate(drawings) if one.style == "@iconify-json/noto"]
    emoji = sorted(drawings[index].name for index in numbers)
    assert sorted(wrong.names[index] for index in numbers) == emoji


def test_what_has_no_value_gets_no_wrong_one(catalogue: Catalogue) -> None:
    drawings = catalogue.roles["train"]
    wrong = rotate(drawings, 0, lambda one: None, lambda other, one: False)
    assert wrong == {}


def test_questions_fit_the_drawing(catalogue: Catalogue) -> None:
    for role, drawings in catalogue.roles.items():
        wrong = find_wrong(drawings, catalogue.wordnet)
        for index, one in enumerate(drawings):
            found = list(ask(drawings, index, role, wrong, catalogue.wordnet, random.Random(0)))
            answers = {asked.category: asked.answer for asked in found}
            assert ("name" in answers) == (role != "concept")
            assert answers["choose"] == one.name
            for asked in found:
                if asked.category == "choose":
                    offered = asked.question.split(": ", 1)[1]
                    names = {d.name for d in drawings if d.name in offered}
                    assert one.name in names
            yes_no = [q for q in found if q.category in ("yes-no", "type", "meaning", "tag")]
            assert [q.answer for q in yes_no] == ["yes", "no"] * (len(yes_no) // 2)


def test_another_layout_is_explained(tmp_path: Path) -> None:
    given = write_drawings(tmp_path / "p")
    icons = given["@iconify-json/noto"] / "package" / "icons.json"
    icons.write_text("{")
    with pytest.raises(DataError, match=r"icons\.json: cannot be read as JSON"):
        load_catalogue(tuple(given.items()), SHARE)
    icons.write_text('{"icons": {"dog": {}}}')
    with pytest.raises(DataError, match=r"icons\.json: icon"):
        load_catalogue(tuple(given.items()), SHARE + 0.01)
    icons.unlink()
    with pytest.raises(DataError, match="no such file in the package"):
        load_catalogue(tuple(given.items()), SHARE + 0.02)
