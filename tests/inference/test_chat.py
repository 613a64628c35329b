"""``triptych chat`` as a user calls it; stdin that is not a terminal is read line by line."""

import io
import json
from pathlib import Path

import pytest
from tests.inference.tiny import paint, save_model

from triptych.cli.main import main
from triptych.data.lint import lint
from triptych.data.schema import parse_record
from triptych.inference.engine import Engine


@pytest.fixture(scope="module")
def model(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(engine, tmp_path_factory.mktemp("chat") / "model")


@pytest.fixture
def talk(model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # noqa: ANN201
    def run(lines: list[str], *flags: str) -> str:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(line + "\n" for line in lines)))
        code = main(["chat", str(model), "--max-new-tokens", "6", *flags])
        output = capsys.readouterr()
        assert code == 0, output.err
        return output.out

    return run


def test_one_question_as_json(
    model: Path, pictures: list[Path], capsys: pytest.CaptureFixture[str], engine: Engine
) -> None:
    flags = ["--image", str(pictures[0]), "--image", str(pictures[1]), "--prompt", "compare"]
    assert main(["chat", str(model), *flags, "--max-new-tokens", "6", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["images"][1] == {
        "path": str(pictures[1]),
        "width": 16,
        "height": 16,
        "tokens": 4,
    }
    assert printed["answer_tokens"] <= 6
    assert printed["finish_reason"] in ("stop", "length")
    assert printed["prompt_tokens"] > 8
    assert printed["seconds"] > 0
    assert main(["chat", str(model), *flags, "--max-new-tokens", "6"]) == 0
    assert capsys.readouterr().out == printed["answer"] + "\n"


def test_rounds_with_images_and_numbers(talk, tmp_path: Path) -> None:  # noqa: ANN001
    spaced = paint(tmp_path, "my cat.png", 9, size=(24, 16))
    other = paint(tmp_path, "dog.png", 10)
    escaped = str(spaced).replace(" ", "\\ ")
    output = talk(
        [
            f"/image '{spaced}' {other}",
            f"/image {escaped}",
            f"/image {spaced}",
            "what are these?",
            "/images",
            "/image absent.png",
            "/images",
            "/undo",
            "/images",
        ]
    )
    assert output.count("my cat.png (24 x 16), sent with the next question") == 3
    assert f"image 4: {spaced}" in output
    assert "absent.png" in output
    assert output.count("24 x 16") == 3 + 3 + 3
    assert "no images yet" in output


def test_saved_conversations_are_records(talk, tmp_path: Path, pictures: list[Path]) -> None:  # noqa: ANN001
    target = tmp_path / "some talks.jsonl"
    talk([f"/image {pictures[0]}", "what is this?", "and now?", f"/save '{target}'"])
    talk(["hello", f'/save "{target}"'], "--system", "be short")
    records = [
        parse_record(json.loads(line), f"{target}:{number}")
        for number, line in enumerate(target.read_text().splitlines(), start=1)
    ]
    report = lint(target)
    assert (report.errors, report.records) == (0, 2)
    assert [len(record.messages) for record in records] == [4, 3]
    assert records[0].images[0].location == str(pictures[0])
    assert records[1].messages[0].role == "system"


def test_undo_takes_back_images_that_were_not_sent(talk, pictures: list[Path]) -> None:  # noqa: ANN001
    output = talk([f"/image {pictures[0]}", "/undo", "/images", "hello", "/undo", "/undo"])
    assert "images for the next round are taken back" in output
    assert "no images yet" in output
    assert "the last round is taken back" in output
    assert "no round to take back" in output


def test_mistakes_leave_the_loop_running(talk, tmp_path: Path) -> None:  # noqa: ANN001
    output = talk(
        [
            "/unknown",
            "/image",
            "/image 'open",
            "/save",
            "/save /nowhere/at/all.jsonl",
            "/undo",
            "/help",
            "",
            "hello",
            "/save /nowhere/at/all.jsonl",
            "/clear",
            "/quit",
            "never",
        ]
    )
    for expected in (
        "no command /unknown",
        "needs the path",
        "close the quotes",
        "needs one file name",
        "no answered round",
        "no round to take back",
        "/images",
        "No such file",
        "a new conversation",
    ):
        assert expected in output
    assert "never" not in output


def test_a_full_context_is_a_message(talk) -> None:  # noqa: ANN001
    assert "context of 1024" in talk(["word " * 2000, "hello"])


def test_mistakes_on_the_command_line(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", str(model), "--json"]) == 2
    assert main(["chat", str(model / "absent"), "--prompt", "x"]) == 2
    assert main(["chat", str(model), "--prompt", "x", "--image", "absent.png"]) == 2
    assert "absent.png" in capsys.readouterr().err


def test_ctrl_c_stops_the_answer_and_keeps_the_loop(
    talk,  # noqa: ANN001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from triptych.inference.text import TextStream

    push, calls = TextStream.push, []

    def interrupt(self: TextStream, token: int) -> str:
        calls.append(token)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return push(self, token)

    monkeypatch.setattr(TextStream, "push", interrupt)
    output = talk(["hello", "/undo", "again"])
    assert "(stopped)" in output
    assert "taken back" in output
