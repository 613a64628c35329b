"""Supervised fine-tuning: next-token cross-entropy over the supervised tokens of the batch."""

from collections.abc import Sequence

import torch
from torch import nn

from triptych.language.head import IGNORE
from triptych.training.objectives.base import Batch, Loss, Once, Totals
from triptych.training.objectives.experts import Experts


class Sft:
    """The cross-entropy that the model computes itself.

    Args:
        experts: of a mixture of experts; None where the language model is dense.
    """

    def __init__(self, experts: Experts | None = None) -> None:
        self.experts = experts

    def items(self, batch: Batch) -> int:
        """Supervised tokens that have a prediction."""
        return int((batch["labels"][:, 1:] != IGNORE).sum())

    def begin(self, module: nn.Module, data: Once, *, resumed: bool) -> None:
        return None

    def loss(self, module: nn.Module, batch: Batch, totals: Totals) -> Loss:
        asked = {} if self.experts is None else self.experts.arguments
        output = module(**batch, **asked, num_items_in_batch=totals.items, use_cache=False)
        value = output.loss
        sums = (value.detach().double() * totals.items).reshape(1)
        if self.experts is not None:
            routed = self.experts.loss(output, batch["attention_mask"], totals)
            value, sums = value + routed.value, torch.cat([sums, routed.sums])
        return Loss(value, sums)

    def report(self, sums: Sequence[float], items: int) -> dict[str, object]:
        return {} if self.experts is None else self.experts.report(sums[1:])
