"""What the loop asks of an engine."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol, TypeVar

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from triptych.model.modeling import TriptychForConditionalGeneration

T = TypeVar("T")
OptimizerFactory = Callable[[nn.Module], torch.optim.Optimizer]
MOMENTS = ("exp_avg", "exp_avg_sq")


class Engine(Protocol):
    """Runs one model on one or many processes.

    The optimizer is made after the model has been prepared, because an engine that shards
    parameters replaces them. ``accumulating`` surrounds forward and backward of one micro-batch:
    gradients need to be exchanged only in the last one of a step.

    Attributes:
        neighbours: ranks on this machine.
        device: where this rank computes.
        home: where the model waits before a stage; an engine that shards moves it piece by piece.
        sharded: whether a prepared model is spread over the ranks. Every rank then has to take
            part in each of its forward passes, and it is a plain model again only when it has
            been loaded anew.
        gathers_on_use: whether a part is gathered at the moment when it runs, so that every rank
            has to run every part, also without an image.
    """

    rank: int
    world: int
    neighbours: int
    device: torch.device
    home: torch.device
    sharded: bool
    gathers_on_use: bool

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and draws the progress bar."""
        ...

    def prepare(
        self,
        model: "TriptychForConditionalGeneration",
        make_optimizer: OptimizerFactory,
        max_norm: float | None,
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Wrap ``model`` for one stage.

        Args:
            model: a plain model, the same on every rank.
            make_optimizer: called once the parameters are those that will be updated.
            max_norm: largest gradient norm of a step; None for no clipping.

        Returns:
            What to call forward on, and its optimizer, whose groups keep their keys.
        """
        ...

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        """Context of one micro-batch; ``last`` for the last one of an optimizer step."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of ``loss``, this rank's share of the loss of the global batch."""
        ...

    def update(self, optimizer: torch.optim.Optimizer) -> float:
        """Clip, update the parameters, forget the gradients.

        Returns:
            The global gradient norm before clipping; where it is not finite, nothing was updated.
        """
        ...

    def settle(self) -> None:
        """Put the parameters back where they are between steps, after an evaluation."""
        ...

    def whole(self, parameter: nn.Parameter) -> Tensor:
        """A parameter that trains, whole and in float32, on every rank; all ranks call it."""
        ...

    def moments(
        self, optimizer: torch.optim.Optimizer, parameter: nn.Parameter
    ) -> dict[str, Tensor]:
        """Whole moments of AdamW of a parameter, and its step count; all ranks call it."""
        ...

    def set_moments(
        self,
        optimizer: torch.optim.Optimizer,
        parameter: nn.Parameter,
        values: Mapping[str, Tensor],
    ) -> None:
        """Put back, before the first step, what ``moments`` gave, on any number of ranks."""
        ...

    def finish(self) -> None:
        """Let go of the model of the stage."""
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
