"""What the loop asks of an objective."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from torch import Tensor, nn

Batch: TypeAlias = Mapping[str, Tensor]


@dataclass(frozen=True)
class Totals:
    """Counts of the global batch of one step, over all ranks and micro-batches.

    Attributes:
        items: what the loss is a mean of: supervised tokens, or pairs; at least 1.
        tokens: tokens without padding; at least 1.
    """

    items: int
    tokens: int


@dataclass(frozen=True)
class Loss:
    """The objective of one micro-batch.

    Attributes:
        value: this micro-batch's share of the loss of the global batch; a scalar.
        sums: (M,) float64, what ``Objective.report`` turns into numbers once they are summed over
            micro-batches, ranks and steps. The first is the sum of the loss over the items.
    """

    value: Tensor
    sums: Tensor


class Once(Protocol):
    """Gives every training sample once."""

    def once(self) -> Iterator[Batch]:
        """This rank's micro-batches over all samples, as many on every rank."""
        ...


class Objective(Protocol):
    """Turns micro-batches into a loss that does not depend on how they were cut.

    ``begin`` is called once, when the module of a stage is ready, and ``loss`` inside autocast.
    """

    def items(self, batch: Batch) -> int:
        """Items of a micro-batch that its loss is a sum over."""
        ...

    def begin(self, module: nn.Module, data: Once, *, resumed: bool) -> None:
        """Prepare what a stage needs before its first step, on all ranks together."""
        ...

    def loss(self, module: nn.Module, batch: Batch, totals: Totals) -> Loss:
        """Forward one micro-batch, which is on the module's device."""
        ...

    def report(self, sums: Sequence[float], items: int) -> dict[str, object]:
        """What the log says beside the loss, from sums over ``items`` items."""
        ...
