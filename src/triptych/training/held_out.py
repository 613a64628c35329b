"""Held-out loss and accuracy, teacher-forced: each token is predicted from the right ones before.

Shape suffixes: B batch, S sequence, N supervised tokens, K vocabulary, A answers.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from triptych.language.head import IGNORE
from triptych.training.engines import Engine
from triptych.training.moving import autocast, to_device

if TYPE_CHECKING:
    from triptych.model.modeling import TriptychForConditionalGeneration


@dataclass(frozen=True)
class Score:
    """Measurements of one held-out set.

    Attributes:
        loss: mean cross-entropy of its supervised tokens.
        token_accuracy: share of supervised tokens that were the likeliest.
        answer_accuracy: share of answers all of whose tokens, end token included, were.
        tokens: supervised tokens measured.
        answers: answers measured.
    """

    loss: float
    token_accuracy: float
    answer_accuracy: float
    tokens: int
    answers: int


def count_right(logits: Tensor, labels: Tensor) -> tuple[int, int, int, int]:
    """Compare predictions with labels.

    An answer is a run of supervised tokens in one row.

    Args:
        logits: (N, K) at the supervised positions in row-major order.
        labels: (B, S), not shifted, -100 outside the loss.

    Returns:
        Right tokens, tokens N, right answers, answers A.
    """
    targets = labels[:, 1:]
    mask = targets != IGNORE
    begins = mask.clone()
    begins[:, 1:] &= ~mask[:, :-1]
    answer = begins.flatten().cumsum(0)[mask.flatten()] - 1
    wrong = logits.argmax(-1) != targets[mask]
    answers = int(begins.sum())
    errors = torch.bincount(answer, weights=wrong.double(), minlength=answers)
    return int((~wrong).sum()), len(wrong), int((errors == 0).sum()), answers


def measure(
    model: "TriptychForConditionalGeneration",
    batches: Iterable[Mapping[str, Tensor]],
    engine: Engine,
    precision: str,
) -> Score:
    """Measure ``model``, in evaluation mode, on this rank's ``batches``; summed over ranks."""
    sums = torch.zeros(5, dtype=torch.float64)
    with torch.no_grad():
        for batch in batches:
            moved = to_device(batch, engine.device)
            with autocast(engine.device, precision):
                output = model(**moved, num_items_in_batch=1, use_cache=False)
            counts = count_right(output.logits, moved["labels"])
            sums += torch.tensor([float(output.loss), *counts], dtype=torch.float64)
    loss, right, tokens, whole, answers = engine.all_reduce_sum(sums.to(engine.device)).tolist()
    return Score(
        loss=loss / max(tokens, 1),
        token_accuracy=right / max(tokens, 1),
        answer_accuracy=whole / max(answers, 1),
        tokens=int(tokens),
        answers=int(answers),
    )
