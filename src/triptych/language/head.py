"""Logits and loss at chosen positions only.

Shape suffixes: N chosen positions, D width, K vocabulary, B batch, S sequence.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IGNORE = -100


class VocabularyHead:
    """From hidden states to logits as the language model itself does it.

    Some families scale or cap their logits; the factors are read from the configuration: divided
    by ``logits_scaling`` (Granite), multiplied by ``logit_scale`` (Cohere), capped by
    ``final_logit_softcapping`` (Gemma 2 and 3).
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.factor = float(config.get("logit_scale") or 1) / float(
            config.get("logits_scaling") or 1
        )
        self.cap = config.get("final_logit_softcapping")

    def __call__(self, head: nn.Module, hidden: Tensor) -> Tensor:
        """Logits (..., K) of ``hidden`` (..., D)."""
        logits = cast(Tensor, head(hidden))
        if self.factor != 1:
            logits = logits * self.factor
        if self.cap is not None:
            logits = torch.tanh(logits / self.cap) * self.cap
        return logits


def supervised(hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Pick the hidden states that predict a supervised token, and those tokens.

    The shift by one happens here and nowhere else.

    Args:
        hidden: (B, S, D).
        labels: (B, S), the token itself where it is in the loss, else -100.

    Returns:
        Hidden states (N, D) and targets (N,), in row-major order.
    """
    targets = labels[:, 1:]
    mask = targets != IGNORE
    return hidden[:, :-1][mask], targets[mask]


def cross_entropy(logits: Tensor, targets: Tensor, items: Tensor | int | None) -> Tensor:
    """Sum of the cross-entropies over ``items``, in fp32.

    Args:
        logits: (N, K).
        targets: (N,).
        items: supervised tokens of the global batch; None divides by N.

    Returns:
        A scalar; 0 when nothing is supervised, with a gradient of 0.
    """
    if not len(targets):
        return logits.float().sum()
    total = F.cross_entropy(logits.float(), targets, reduction="sum")
    return total / (len(targets) if items is None else items)
