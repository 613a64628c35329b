"""One process, one device."""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from triptych.training.engines.base import OptimizerFactory

if TYPE_CHECKING:
    from triptych.model.modeling import TriptychForConditionalGeneration

T = TypeVar("T")


class SingleEngine:
    """Plain PyTorch on the first GPU, or on the CPU where there is none."""

    def __init__(self) -> None:
        self.rank = 0
        self.world = 1
        self.neighbours = 1
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.home = self.device
        self.sharded = False
        self.gathers_on_use = False
        self._max_norm: float | None = None

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def prepare(
        self,
        model: "TriptychForConditionalGeneration",
        make_optimizer: OptimizerFactory,
        max_norm: float | None,
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        self._max_norm = max_norm
        return model, make_optimizer(model)

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        torch.autograd.backward(loss)

    def update(self, optimizer: torch.optim.Optimizer) -> float:
        norm = self._clip([p for group in optimizer.param_groups for p in group["params"]])
        if math.isfinite(norm):
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return norm

    def settle(self) -> None:
        return None

    def whole(self, parameter: nn.Parameter) -> Tensor:
        return parameter.detach()

    def moments(
        self, optimizer: torch.optim.Optimizer, parameter: nn.Parameter
    ) -> dict[str, Tensor]:
        return dict(optimizer.state[parameter])

    def set_moments(
        self,
        optimizer: torch.optim.Optimizer,
        parameter: nn.Parameter,
        values: Mapping[str, Tensor],
    ) -> None:
        for moment, value in values.items():
            optimizer.state[parameter][moment] = value.to(parameter.device)

    def finish(self) -> None:
        return None

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        return tensor

    def gather(self, item: T) -> list[T]:
        return [item]

    def barrier(self) -> None:
        return None

    def close(self) -> None:
        return None

    def _clip(self, parameters: list[nn.Parameter]) -> float:
        limit = math.inf if self._max_norm is None else self._max_norm
        return nn.utils.clip_grad_norm_(parameters, limit).item()
