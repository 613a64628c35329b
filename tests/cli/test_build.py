from pathlib import Path

import pytest

from triptych.cli.main import main

pytest.importorskip("easy_vqa")


def test_builds_and_builds_only_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["data", "build", "easy-vqa", "--out", str(tmp_path / "e"), "--limit", "9"]
    assert main(command) == 0
    assert "test-multi.jsonl" in capsys.readouterr().out
    before = (tmp_path / "e" / "train-full-named.jsonl").stat().st_mtime_ns
    assert main(command) == 0
    assert (tmp_path / "e" / "train-full-named.jsonl").stat().st_mtime_ns == before


@pytest.mark.parametrize("images", ["", "1", "1:x", "1:1", "2:1", "0:1,2:1"])
def test_wrong_weights_are_refused(
    tmp_path: Path, images: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "e"
    assert main(["data", "build", "easy-vqa", "--out", str(out), "--images", images]) == 2
    assert "weight" in capsys.readouterr().err
    assert not out.exists()
