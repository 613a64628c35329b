import json
from pathlib import Path

import pytest
import torch
from torch import nn

from triptych.errors import CheckpointError
from triptych.training.checkpoint import (
    FORMAT,
    Best,
    Progress,
    Window,
    latest_checkpoint,
    prune,
    read_checkpoint,
)
from triptych.training.engines.single import SingleEngine
from triptych.training.saving import Saver


def trained_model(seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


def save(folder: Path, step: int, best: Best | None = None) -> Path:
    model, optimizer = trained_model()
    progress = Progress(
        step=step,
        loader={"epoch": 1, "batch": 2, "step": step},
        trained=("1.weight", "1.bias"),
        best=best,
        window=Window(steps=1, loss=0.1 + 0.2),
    )
    saver = Saver(folder, SingleEngine(), keep=99)
    saver.save(progress, model, optimizer)
    saver.close()
    return folder / f"step-{step:08d}"


def test_everything_comes_back(tmp_path: Path) -> None:
    folder = save(tmp_path, 5, Best("test", 0.3, 4))
    expected = torch.rand(3)
    model, optimizer = trained_model()
    other, other_optimizer = trained_model(seed=1)
    checkpoint = read_checkpoint(folder)
    checkpoint.load_weights(other)
    checkpoint.load_optimizer(other, other_optimizer, SingleEngine())
    checkpoint.restore_rng(0)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(other[1].weight, model[1].weight)  # type: ignore[index,union-attr]
    assert not torch.equal(other[0].weight, model[0].weight)  # type: ignore[index,union-attr]
    for mine, theirs in zip(optimizer.state.values(), other_optimizer.state.values(), strict=True):
        assert mine.keys() == theirs.keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    progress = checkpoint.progress
    assert progress.best == Best("test", 0.3, 4)
    assert progress.window == Window(steps=1, loss=0.1 + 0.2)
    assert progress.loader == {"epoch": 1, "batch": 2, "step": 5}


def test_only_safetensors_and_json(tmp_path: Path) -> None:
    names = {path.name for path in save(tmp_path, 1).iterdir()}
    assert {Path(name).suffix for name in names} == {".safetensors", ".json"}


def test_half_written_folders_are_ignored_and_cleaned(tmp_path: Path) -> None:
    whole = save(tmp_path, 1)
    half = save(tmp_path, 2)
    (half / "state.json").unlink()
    save(tmp_path, 3).rename(tmp_path / ".tmp-step-00000003")
    checkpoint = latest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.folder == whole
    assert [path.name for path in tmp_path.iterdir()] == [whole.name]


def test_a_failure_while_writing_leaves_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("triptych.training.checkpoint.json.dumps", fail)
    with pytest.raises(OSError, match="disk full"):
        save(tmp_path, 1)
    assert latest_checkpoint(tmp_path) is None


def test_the_last_ones_and_the_best_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5):
        save(tmp_path, step)
        prune(tmp_path, 2, Best("test", 0.5, 2) if step >= 2 else None)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == [
        "step-00000002",
        "step-00000004",
        "step-00000005",
    ]
    assert json.loads((tmp_path / "best.json").read_text())["checkpoint"] == "step-00000002"


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(save(tmp_path, 1))
    other = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5))
    other[0].requires_grad_(False)
    with pytest.raises(CheckpointError, match=r"'1\.(weight|bias)' is .* the model has"):
        checkpoint.load_weights(other)
    third = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    with pytest.raises(CheckpointError, match="trains in this stage but is not in the checkpoint"):
        checkpoint.load_weights(third)


def test_another_format_is_refused(tmp_path: Path) -> None:
    state = save(tmp_path, 1) / "state.json"
    state.write_text(state.read_text().replace(f'"format": {FORMAT}', '"format": 9'))
    with pytest.raises(CheckpointError, match="format 9"):
        latest_checkpoint(tmp_path)
