"""DeepStack-V: the tower trains at a rate of its own, seen in the optimizer and in the weights."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tests.training.test_loop import make_trainer
from tests.training.tiny import data_spec, model_spec, one_batch, stage
from torch import Tensor, nn

from triptych.fusion import DeepStackFusion
from triptych.fusion.deepstack import TowerStacks
from triptych.model import TriptychForConditionalGeneration
from triptych.model.build import initialise
from triptych.towers import SmallTower
from triptych.training.engines.base import OptimizerFactory
from triptych.training.engines.single import SingleEngine
from triptych.training.run import training_texts


class WatchedEngine(SingleEngine):
    """Remembers the optimizer, and how far each parameter went in the first step."""

    def __init__(self) -> None:
        super().__init__()
        self.optimizer: torch.optim.Optimizer | None = None
        self.moved: dict[int, float] = {}

    def prepare(
        self,
        model: TriptychForConditionalGeneration,
        make_optimizer: OptimizerFactory,
        max_norm: float | None,
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        module, self.optimizer = super().prepare(model, make_optimizer, max_norm)
        return module, self.optimizer

    def update(self, optimizer: torch.optim.Optimizer) -> float:
        before = [(one, one.detach().clone()) for one in parameters(optimizer)]
        norm = super().update(optimizer)
        for one, old in before:
            self.moved.setdefault(id(one), float((one.detach() - old).abs().max()))
        return norm


def parameters(optimizer: torch.optim.Optimizer) -> Sequence[Tensor]:
    return [one for group in optimizer.param_groups for one in group["params"]]


@pytest.mark.parametrize(("given", "rate"), [(2e-6, 2e-6), (True, 1e-3)])
def test_the_rate_of_the_tower_is_applied(tmp_path: Path, given: float | bool, rate: float) -> None:
    data = data_spec(tmp_path / "data")
    update = {
        "towers": (SmallTower(size=16, patch=4, hidden=16, depth=3, heads=2),),
        "fusion": DeepStackFusion(start=1, count=2, producer=TowerStacks()),
    }
    spec = model_spec().model_copy(update=update)
    model, processor = initialise(spec, texts=training_texts(data))
    one = stage(
        steps=1,
        learning_rate=1e-3,
        schedule={"kind": "constant", "warmup": 0},
        train={"towers": given, "language": "full"},
    )
    trainer = make_trainer(tmp_path / "run", model, processor, [one_batch(processor, data)], one)
    trainer.engine = engine = WatchedEngine()
    trainer.train()
    assert engine.optimizer is not None
    inside = groups_of(model, engine.optimizer)
    assert inside == {rate}
    farthest = max(engine.moved[id(one)] for one in model.towers.parameters())
    assert farthest == pytest.approx(rate, rel=0.2)
    assert engine.moved[id(model.connector[0].weight)] == pytest.approx(1e-3, rel=0.2)


def groups_of(
    model: TriptychForConditionalGeneration, optimizer: torch.optim.Optimizer
) -> set[float]:
    """The rates of all groups that hold a parameter of the tower; each parameter is in one."""
    own = {id(one) for one in model.towers.parameters()}
    held = [(id(one), group["lr"]) for group in optimizer.param_groups for one in group["params"]]
    assert sorted(number for number, _ in held if number in own) == sorted(own)
    return {rate for number, rate in held if number in own}
