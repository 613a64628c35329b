import hashlib
import json
import re
from pathlib import Path

import pytest
from tests.synth.squares import square

from triptych.cli.main import main
from triptych.data.readers import open_reader
from triptych.data.roles import role_errors
from triptych.data.schema import Record
from triptych.data.tags import ORDINALS
from triptych.errors import DataError
from triptych.images.decode import content_hash, open_image
from triptych.synth.dialogue import easy_vqa
from triptych.synth.dialogue.atoms import read_images
from triptych.synth.dialogue.builder import Dialogues
from triptych.synth.pipeline import build

COUNT = 12


def write(folder: Path, split: str, greys: range) -> Path:
    """Records about squares of one grey each: how grey, is it dark, and a text too long to use."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for grey in greys:
        square(grey).save(folder / f"{grey}.png")
        for question, answer in (
            ("How grey is it?", str(grey)),
            ("Is it dark?", "yes" if grey < 100 else "no"),
            ("What is twice that?", str(2 * grey)),
            ("Tell me all.", "very long " * 30),
        ):
            content = [
                {"type": "image", "image": f"{grey}.png"},
                {"type": "text", "text": question},
            ]
            lines.append(
                {
                    "id": f"{split}/{grey}/{question}",
                    "source": f"squares {grey % 2}",
                    "license": "MIT" if grey % 2 else "CC0-1.0",
                    "messages": [
                        {"role": "user", "content": content},
                        {"role": "assistant", "content": answer, "category": question},
                    ],
                }
            )
    file = folder / f"{split}-squares.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("squares")
    write(folder, "train", range(40, 60))
    write(folder, "test", range(140, 150))
    return folder


@pytest.fixture(scope="module")
def built(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "dialogues"
    build(Dialogues((folder,), train=120, test=20, which=0.5), out)
    return out


def records(folder: Path, split: str) -> list[Record]:
    reader = open_reader(folder / f"{split}.jsonl")
    return [reader[index] for index in range(len(reader))]


def test_numbers_of_images_and_rounds(built: Path) -> None:
    found = records(built, "train")
    assert len(found) == 120
    assert {len(record.images) for record in found} == set(range(2, 9))
    assert {len(record.messages) // 2 for record in found} == {3, 4, 5, 6}
    assert not any(role_errors(record.messages) for record in found)
    later = [record for record in found if len(record.messages[0].images) < len(record.images)]
    assert len(later) > 30, "images come in several rounds"


def test_every_answer_is_that_of_the_image_named(built: Path) -> None:
    """References are resolved here by their own words, not as the builder makes them."""
    kinds: set[str] = set()
    for record in records(built, "train"):
        seen: list[int] = []
        previous = -1
        for user, answer in zip(record.messages[::2], record.messages[1::2], strict=True):
            for image in user.images:
                value = open_image(image.location).getpixel((0, 0))
                assert isinstance(value, tuple)
                seen.append(int(value[0]))
            text = user.text
            if answer.category == "which image":
                kinds.add("which")
                number = int(answer.text.removeprefix("image ")) - 1
                truth = {"How grey is it?": seen[number], "What is twice that?": 2 * seen[number]}
                question = next((q for q in truth if q in text), None)
                if question:
                    assert text.endswith((f": {truth[question]}?",))
                continue
            named = re.search(r"\bimage (\d+)", text)
            ordinal = re.search(rf"the ({'|'.join(ORDINALS)}) image", text)
            if named:
                kind, number = "number", int(named.group(1)) - 1
            elif ordinal:
                kind, number = "ordinal", ORDINALS.index(ordinal.group(1))
            elif "before that one" in text or "One image earlier" in text:
                kind, number = "before", previous - 1
            elif "last" in text:
                kind, number = "last", len(seen) - 1
            else:
                kind, number = "same", previous
            kinds.add(kind)
            grey, previous = seen[number], number
            truth_of = {"How grey": str(grey), "Is it dark": "yes" if grey < 100 else "no"}
            expected = next((v for k, v in truth_of.items() if k in text), str(2 * grey))
            assert answer.text == expected, (kind, text)
    assert kinds == {"number", "ordinal", "before", "last", "same", "which"}


def test_splits_share_no_picture(built: Path) -> None:
    hashes = {
        split: {
            content_hash(open_image(i.location)) for r in records(built, split) for i in r.images
        }
        for split in ("train", "test")
    }
    assert hashes["train"].isdisjoint(hashes["test"])
    assert (len(hashes["train"]), len(hashes["test"])) == (20, 10)


def test_a_dialogue_names_the_licences_of_its_images(built: Path) -> None:
    for record in records(built, "train"):
        names = json.loads(json.dumps(record.metadata))["records"]
        greys = {int(name.split("/")[1]) for name in names}
        assert len(greys) == len(record.images)
        both = {"MIT" if grey % 2 else "CC0-1.0" for grey in greys}
        assert record.license == " AND ".join(sorted(both))


def test_long_answers_are_left_out(folder: Path) -> None:
    shown = read_images([folder / "train-squares.jsonl"])
    assert {len(one.atoms) for one in shown} == {3}


def test_a_truncated_image_is_left_out_with_its_reason(tmp_path: Path) -> None:
    write(tmp_path / "s", "train", range(40, 49))
    cut = tmp_path / "s" / "44.png"
    cut.write_bytes(cut.read_bytes()[:40])
    manifest = build(Dialogues((tmp_path / "s",), train=20, images=(2, 4)), tmp_path / "x").manifest
    lines = (tmp_path / "x" / "quarantine.jsonl").read_text().splitlines()
    assert 0 < len(lines) == 20 - manifest.files["train.jsonl"]
    assert all("44.png" in line for line in lines)


def test_too_few_images_are_an_error(tmp_path: Path) -> None:
    write(tmp_path / "s", "train", range(40, 43))
    with pytest.raises(DataError, match=r"3 training images in .* needs at least so many"):
        build(Dialogues((tmp_path / "s",)), tmp_path / "x")
    with pytest.raises(DataError, match="gone: no such file or folder"):
        build(Dialogues((Path("gone"),)), tmp_path / "x")


def test_the_verb(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["data", "build", "dialogues", "--out", str(tmp_path / "x"), "--from", str(folder)]
    command += ["--train", "5", "--test", "5", "--workers", "1"]
    assert main([*command, "--images", "2", "3"]) == 0
    assert "train.jsonl" in capsys.readouterr().out
    assert main([*command, "--images", "3", "2"]) == 2
    assert "fewest first" in capsys.readouterr().err


def test_the_demos_held_out_files_are_what_they_were() -> None:
    """Changing how dialogues are planned must not change what models were judged on."""
    pytest.importorskip("easy_vqa")
    found = easy_vqa.files(easy_vqa.Plan(limit=60))
    digests = {
        name: hashlib.sha256(
            "\n".join(json.dumps(record.to_json()) for record in found[name]).encode()
        ).hexdigest()[:16]
        for name in ("test-single.jsonl", "test-multi.jsonl", "test-talk.jsonl")
    }
    assert digests == {
        "test-single.jsonl": "8f413f4c507c2f3f",
        "test-multi.jsonl": "b83b1c1cfc66391c",
        "test-talk.jsonl": "beaec98e5da5fa10",
    }
