import json
from pathlib import Path

import pytest
from tests.evaluation.test_runner import answer, turn
from tests.inference.tiny import save_model

from triptych.cli.main import main
from triptych.inference.engine import Engine


@pytest.fixture(scope="module")
def model(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    save_model(engine, folder / "model")
    return folder


@pytest.fixture(scope="module")
def data(folder: Path) -> Path:
    path = folder / "held-out.jsonl"
    records = [
        {"id": str(n), "messages": [turn("which color?", f"{n}.png"), answer("red", category="c")]}
        for n in range(5)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_a_table_and_a_report(model: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(model), "--data", str(data), "--max-new-tokens", "4"]) == 0
    printed = capsys.readouterr().out
    for expected in ("accuracy", "blind", "1 image", "empty answers", "ANLS", "±", "answers.jsonl"):
        assert expected in printed
    report = model / "evaluation" / "held-out"
    answers = [json.loads(line) for line in (report / "answers.jsonl").read_text().splitlines()]
    assert [row["id"] for row in answers] == list("01234")
    summary = json.loads((report / "summary.json").read_text())
    assert summary["data"] == str(data)
    assert summary["accuracy"] == sum(row["correct"] for row in answers) / 5
    assert summary["gain_margin"] >= 0
    assert {path.name for path in report.iterdir()} == {"answers.jsonl", "summary.json"}


def test_json_is_all_of_stdout(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--no-blind", "--fast", "--limit", "3", "--json", "--out", str(tmp_path / "out")]
    assert main(["eval", str(model), "--data", str(data), *flags]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["questions"] == 3
    assert summary["blind_accuracy"] is None
    assert (tmp_path / "out" / "summary.json").is_file()


def test_mistakes_are_messages(model: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(model), "--data", str(data.with_name("absent.jsonl"))]) == 2
    assert "absent.jsonl" in capsys.readouterr().err
    assert main(["eval", str(model), "--data", str(data), "--history", "mine"]) == 2
    assert main(["eval", str(model), "--data", str(data), "--reader", "jsonll"]) == 2
    assert "did you mean 'jsonl'" in capsys.readouterr().err
