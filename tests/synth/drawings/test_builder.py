import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.synth.tiny_packages import write_drawings

from triptych.cli.main import main
from triptych.data.readers import open_reader
from triptych.data.schema import Record
from triptych.images.decode import content_hash, open_image
from triptych.synth.drawings.builder import Drawings
from triptych.synth.drawings.catalogue import Folders
from triptych.synth.pipeline import build

Files = Mapping[str, list[Record]]

PUBLIC = "LicenseRef-public-domain"


def small(folders: Folders, seed: int = 0) -> Drawings:
    return Drawings(folders, seed, size=48, share=0.3, scenes=30, test_scenes=30)


def read(folder: Path) -> Files:
    found = {}
    for path in sorted(folder.glob("t*.jsonl")):
        records = open_reader(path, "jsonl", None)
        found[path.name] = [records[index] for index in range(len(records))]
    return found


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return tuple(write_drawings(tmp_path_factory.mktemp("packages")).items())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, folders: Folders) -> Path:
    out = tmp_path_factory.mktemp("built") / "drawings"
    build(small(folders), out)
    return out


@pytest.fixture(scope="module")
def files(folder: Path) -> Files:
    return read(folder)


def test_the_files_and_their_questions(files: Files) -> None:
    assert set(files) == {
        "train.jsonl",
        "train-scenes.jsonl",
        "test-design.jsonl",
        "test-concept.jsonl",
        "test-style.jsonl",
        "test-scenes.jsonl",
    }
    kinds = {
        name: {record.messages[-1].category for record in records}
        for name, records in files.items()
    }
    assert kinds["train.jsonl"] == {
        "name", "kind", "choose", "yes-no", "type", "meaning", "tag"
    }  # fmt: skip
    assert "name" in kinds["test-design.jsonl"]
    assert "name" not in kinds["test-concept.jsonl"]
    assert kinds["train-scenes.jsonl"] - kinds["test-scenes.jsonl"] == {"name at"}


def test_splits_share_no_concept_and_no_picture(files: Files) -> None:
    concepts: dict[str, set[str]] = defaultdict(set)
    pictures: dict[str, set[str]] = defaultdict(set)
    for name, records in files.items():
        for record in records:
            assert record.metadata is not None
            concepts[name].update(record.metadata["concepts"])  # type: ignore[arg-type]
            pictures[name].add(content_hash(open_image(str(record.images[0].location))))
    seen = concepts["train.jsonl"] | concepts["train-scenes.jsonl"]
    assert seen.isdisjoint(concepts["test-concept.jsonl"] | concepts["test-scenes.jsonl"])
    trained = pictures["train.jsonl"] | pictures["train-scenes.jsonl"]
    for name, found in pictures.items():
        assert name.startswith("train") or trained.isdisjoint(found)


def test_every_record_says_where_it_comes_from(files: Files) -> None:
    licenses = {"Apache-2.0", "MIT", "CC-BY-SA-4.0", "GPL-2.0-or-later", PUBLIC}
    for records in files.values():
        for record in records:
            assert record.source
            assert record.license
            assert set(record.license.split(" AND ")) <= licenses
    for record in files["test-style.jsonl"]:
        assert record.license == "CC-BY-SA-4.0"


def test_no_question_gives_its_answer_away(files: Files) -> None:
    """Yes/no questions about names: the same text is answered yes as often as no."""
    for name in ("train.jsonl", "test-concept.jsonl", "test-design.jsonl"):
        texts: dict[str, Counter[str]] = defaultdict(Counter)
        for record in files[name]:
            if record.messages[-1].category == "yes-no":
                asked = record.messages[0].text.split(": ", 1)[1]
                texts[asked][record.messages[-1].text] += 1
        blind = sum(max(counts.values()) for counts in texts.values())
        assert blind <= 0.6 * sum(sum(counts.values()) for counts in texts.values())


def test_bad_drawings_are_in_the_quarantine(folder: Path) -> None:
    lines = (folder / "quarantine.jsonl").read_text().splitlines()
    reasons = {line["where"]: line["reason"] for line in map(json.loads, lines)}
    assert reasons["openclipart-svg: usr/share/openclipart/svg/animals/cat_01.svg"] == (
        "it renders blank"
    )
    (broken,) = (reason for where, reason in reasons.items() if where.endswith("dog_01.svg"))
    assert broken.startswith("it does not render (CairoSVG")
    assert any("not all English" in reason for reason in reasons.values())


def test_seeds_change_training_only(tmp_path: Path, folders: Folders, files: Files) -> None:
    build(small(folders, 1), tmp_path / "other")
    other = read(tmp_path / "other")
    for name, records in files.items():
        texts = [record.messages for record in records]
        same = [[m.text for m in one] for one in texts] == [
            [m.text for m in record.messages] for record in other[name]
        ]
        assert same == name.startswith("test")


def test_the_verb(tmp_path: Path, folders: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["data", "build", "drawings", "--out", str(tmp_path / "d"), "--size", "32"]
    command += ["--scenes", "5", "--test-scenes", "5", "--share", "0.3", "--limit", "20"]
    command += ["--workers", "1"]
    for name, folder in folders:
        command += ["--source", f"{name}={folder}"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "Apache-2.0" in printed
    assert "train-scenes.jsonl" in printed
    assert "openmoji" not in printed, "copyleft only when asked for"
    assert not (tmp_path / "d" / "test-style.jsonl").exists()
    assert main([*command, "--copyleft"]) == 2, "built with other options"
    assert main([*command, "--copyleft", "--replace"]) == 0
    printed = capsys.readouterr().out
    assert "GPL-2.0-or-later" in printed
    assert "test-style.jsonl" in printed
