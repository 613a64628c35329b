import json
from pathlib import Path

import pytest
from tests.data.tiny import answer, many, tiny_processor, user, write_jsonl

from triptych.cli.main import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data")
    many(path, 5)
    write_jsonl(path / "bad.jsonl", [[user("x", "1.png"), answer("no")], [user("x", "gone.png")]])
    tiny_processor().save_pretrained(path / "run" / "start")
    return path


def test_lint_says_that_all_is_well(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "lint", str(folder / "many.jsonl")]) == 0
    assert "5 records, 6 images, 2 without images, 5 rounds" in capsys.readouterr().out


def test_lint_names_errors_and_exits_with_2(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "lint", str(folder / "bad.jsonl")]) == 2
    out = capsys.readouterr().out
    assert "bad.jsonl:2: error: image 1: " in out
    assert "bad.jsonl:2: error: nothing is supervised" in out
    assert "2 errors, 1 warnings" in out


def test_lint_counts_tokens_with_the_processor_of_a_run_and_prints_json(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["data", "lint", str(folder / "many.jsonl"), "--model", str(folder / "run"), "--json"]
    assert main([*command, "--max-tokens", "30"]) == 2
    report = json.loads(capsys.readouterr().out)
    assert report["kinds"]["long"] == report["errors"] > 0
    assert main([*command, "--max-tokens", "3000"]) == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["lint", "gone.jsonl"], "gone.jsonl: cannot be read"),
        (["lint", "many.jsonl", "--reader", "lava"], "did you mean 'llava'"),
        (["lint", "many.jsonl", "--max-tokens", "9"], "needs --model"),
        (["preview", "many.jsonl", "--index", "9"], "there is no record 9; the last one is 4"),
        (["preview", "many.jsonl", "--model", "nowhere"], "no such model folder"),
    ],
)
def test_a_mistake_is_a_message(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(folder)
    assert main(["data", *arguments]) == 2
    captured = capsys.readouterr()
    assert expected in captured.err
    assert "Traceback" not in captured.err + captured.out


def test_preview_prints_conversations(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(folder / "many.jsonl")
    assert main(["data", "preview", path, "--index", "1", "--count", "2"]) == 0
    out = capsys.readouterr().out
    assert "image 1: 1.png, 10x12" in out
    assert "»no 1«" in out
    assert "»no 2«" in out


def test_preview_writes_a_page_with_token_counts(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    path, run = str(folder / "many.jsonl"), str(folder / "run")
    assert main(["data", "preview", path, "--index", "3", "--html", str(page), "--model", run]) == 0
    text = page.read_text("utf-8")
    assert "image 3: 5.png, 10x12, 4 tokens" in text
    assert "<mark>no 3&lt;|end|&gt;</mark>" in text
    assert str(page) in capsys.readouterr().out
