import json
from pathlib import Path

import pytest
from tests.inference.tiny import paint, save_model, tiny_engine

from triptych.cli.main import main
from triptych.inference import Conversation, SamplingSpec


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, two pictures and records of one, two and no image."""
    folder = tmp_path_factory.mktemp("replay")
    save_model(tiny_engine(), folder / "model")
    for number in range(2):
        paint(folder, f"{number}.png", number)
    one, two = ({"type": "image", "image": f"{number}.png"} for number in range(2))

    def asked(text: str, *images: object) -> dict[str, object]:
        return {"role": "user", "content": [*images, {"type": "text", "text": text}]}

    def said(text: str) -> dict[str, object]:
        return {"role": "assistant", "content": text}

    conversations = [
        [asked("what?", one), said("red")],
        [
            {"role": "system", "content": "be brief"},
            asked("In image 1, what?", one, two),
            said("red"),
            asked("In image 2, what?"),
            said("blue"),
        ],
        [{"role": "document", "content": "words"}],
    ]
    lines = [json.dumps({"messages": messages}) for messages in conversations]
    (folder / "records.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def run(folder: Path, *options: str) -> int:
    data = str(folder / "records.jsonl")
    return main(
        ["replay", str(folder / "model"), "--data", data, "--max-new-tokens", "4", *options]
    )


def test_answers_are_those_of_the_conversation(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, "--images", "2", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    talk = Conversation(tiny_engine(), "be brief", SamplingSpec(max_new_tokens=4))
    first = talk.reply("In image 1, what?", [folder / "0.png", folder / "1.png"]).text
    second = talk.reply("In image 2, what?").text
    assert shown["record"].endswith("records.jsonl:2")
    assert [one["answer"] for one in shown["rounds"]] == [first, second]
    assert [one["reference"] for one in shown["rounds"]] == ["red", "blue"]
    assert [len(one["images"]) for one in shown["rounds"]] == [2, 0]


def test_the_table_has_both_answers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder) == 0
    out = capsys.readouterr().out
    assert "image 1 (from round 1)" in out
    assert "red" in out
    assert "of 1 answers are right" in out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--index", "3"], "no record 3; the file has 3 records"),
        (["--images", "5"], "no record with 5 images"),
        (["--images", "1", "--index", "1"], "no record with 1 images from record 1 on"),
        (["--index", "2"], "found the roles document"),
    ],
)
def test_what_cannot_be_replayed_is_explained(
    folder: Path, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, *options) == 2
    assert words in capsys.readouterr().err
