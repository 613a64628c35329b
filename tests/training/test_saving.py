from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from triptych.errors import CheckpointError
from triptych.training.checkpoint import Progress, read_checkpoint
from triptych.training.engines.single import SingleEngine
from triptych.training.saving import Saver


class OneOfTwo(SingleEngine):
    """A rank of two that spread a model; here both hold all of it and live in one process."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank, self.world, self.sharded = rank, 2, True


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)  # trained in an earlier stage
    model[2].requires_grad_(False)  # never trained
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


NAMES = ("0.bias", "0.weight", "1.bias", "1.weight")


def test_two_ranks_write_one_checkpoint_in_parts(tmp_path: Path) -> None:
    model, optimizer = trained()
    savers = [Saver(tmp_path, OneOfTwo(rank), keep=1) for rank in range(2)]
    for saver in savers:
        saver.begin_stage(model, set(NAMES))
    model[0].weight.data.zero_()  # type: ignore[union-attr,operator]  # spread out, so unreadable
    for saver in savers:
        saver.save(Progress(step=3, trained=NAMES), model, optimizer)
    for saver in reversed(savers):
        saver.close()

    checkpoint = read_checkpoint(tmp_path / "step-00000003")
    parts = {path.name for path in checkpoint.folder.iterdir()}
    assert {"weights-00000-of-00002.safetensors", "optimizer-00001-of-00002.safetensors"} < parts
    assert all(load_file(path) for path in checkpoint.folder.glob("*-of-00002.safetensors"))
    expected, _ = trained()
    found, found_optimizer = trained()
    for parameter in found.parameters():
        parameter.data.zero_()
    found_optimizer.state.clear()
    checkpoint.load_weights(found)
    checkpoint.load_optimizer(found, found_optimizer, SingleEngine())
    for name in NAMES:
        assert torch.equal(found.get_parameter(name), expected.get_parameter(name))
    assert not found.get_parameter("2.weight").any()
    for name in NAMES[2:]:
        one = found_optimizer.state[found.get_parameter(name)]
        other = optimizer.state[model.get_parameter(name)]
        assert all(torch.equal(one[key], other[key]) for key in ("step", "exp_avg", "exp_avg_sq"))


def test_what_is_saved_does_not_change_while_it_is_written(tmp_path: Path) -> None:
    model, optimizer = trained()
    saver = Saver(tmp_path, SingleEngine(), keep=1)
    saver.save(Progress(step=1, trained=NAMES), model, optimizer)
    for parameter in model.parameters():
        parameter.data.zero_()
    saver.close()
    found, _ = trained()
    read_checkpoint(tmp_path / "step-00000001").load_weights(found)
    assert found.get_parameter("1.weight").any()


def test_a_part_that_never_comes_is_named(tmp_path: Path) -> None:
    model, optimizer = trained()
    saver = Saver(tmp_path, OneOfTwo(0), keep=1, patience=0.05)
    saver.save(Progress(step=1, trained=NAMES[2:]), model, optimizer)
    with pytest.raises(CheckpointError, match=r"00001-of-00002.*same run folder"):
        saver.close()
    assert not list(tmp_path.glob("step-*"))
