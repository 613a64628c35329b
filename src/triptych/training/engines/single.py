"""One process, one device."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn

from triptych.training.engines.base import OptimizerFactory

T = TypeVar("T")


class SingleEngine:
    """Plain PyTorch on the first GPU, or on the CPU where there is none."""

    def __init__(self) -> None:
        self.rank = 0
        self.world = 1
        self.neighbours = 1
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def prepare(
        self, model: nn.Module, make_optimizer: OptimizerFactory
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        return model, make_optimizer(model)

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        torch.autograd.backward(loss)

    def clip(self, parameters: Iterable[nn.Parameter], max_norm: float | None) -> Tensor:
        return nn.utils.clip_grad_norm_(parameters, float("inf") if max_norm is None else max_norm)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        return tensor

    def gather(self, item: T) -> list[T]:
        return [item]

    def barrier(self) -> None:
        return None

    def close(self) -> None:
        return None
