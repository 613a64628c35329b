"""Where models are looked for."""

from pathlib import Path

import pytest

from triptych.errors import CheckpointError
from triptych.inference.folder import find_model


def model_in(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def test_a_model_folder_and_a_run_folder(tmp_path: Path) -> None:
    inside = model_in(tmp_path / "run" / "model")
    assert find_model(tmp_path / "run") == find_model(inside) == inside


def test_a_shipped_model_has_a_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "starter" / "evaluation").mkdir(parents=True)
    assert find_model("starter").name == "starter"
    assert find_model("starter").is_absolute()


def test_a_folder_of_that_name_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    model_in(tmp_path / "starter")
    assert find_model("starter") == Path("starter")


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda place: None, "does not exist"),
        (lambda place: place.write_text(""), "is a file"),
        (lambda place: (place / "checkpoints").mkdir(parents=True), "has not finished"),
        (lambda place: place.mkdir(), "neither a model folder nor a run folder"),
    ],
)
def test_what_is_no_model_is_described(tmp_path: Path, make: object, expected: str) -> None:
    assert callable(make)
    make(tmp_path / "mine")
    with pytest.raises(CheckpointError, match=expected):
        find_model(tmp_path / "mine")
