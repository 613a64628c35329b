"""What the loop asks of an engine."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")
OptimizerFactory = Callable[[nn.Module], torch.optim.Optimizer]


class Engine(Protocol):
    """Runs one model on one or many processes.

    The optimizer is made after the model has been prepared, because an engine that shards
    parameters replaces them. ``accumulating`` surrounds forward and backward of one micro-batch:
    gradients need to be exchanged only in the last one of a step. ``neighbours`` counts the ranks
    on this machine.
    """

    rank: int
    world: int
    neighbours: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and draws the progress bar."""
        ...

    def prepare(
        self, model: nn.Module, make_optimizer: OptimizerFactory
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Wrap ``model`` for one stage; returns what to call forward on, and its optimizer."""
        ...

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        """Context of one micro-batch; ``last`` for the last one of an optimizer step."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of ``loss``, this rank's share of the loss of the global batch."""
        ...

    def clip(self, parameters: Iterable[nn.Parameter], max_norm: float | None) -> Tensor:
        """Scale gradients down to ``max_norm``; returns the global norm before scaling."""
        ...

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Update the parameters and forget the gradients."""
        ...

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Sum over ranks; may change ``tensor`` in place."""
        ...

    def gather(self, item: T) -> list[T]:
        """``item`` of every rank, in the order of ranks, on every rank."""
        ...

    def barrier(self) -> None:
        """Wait for every rank."""
        ...

    def close(self) -> None:
        """Leave the process group, if there is one."""
        ...
