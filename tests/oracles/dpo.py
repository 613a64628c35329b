"""DPO as the papers write it, one pair and one token at a time.

Rafailov et al. (2023), equation 7; label smoothing as in conservative DPO (Mitchell, 2023).
"""

import math
from collections.abc import Sequence


def log_softmax(row: Sequence[float], token: int) -> float:
    top = max(row)
    return row[token] - top - math.log(sum(math.exp(one - top) for one in row))


def answer_logprob(rows: Sequence[Sequence[float]], tokens: Sequence[int]) -> float:
    """Log-probability of ``tokens``, each predicted by its own row of logits."""
    return sum(log_softmax(row, token) for row, token in zip(rows, tokens, strict=True))


def pair_loss(
    chosen: float, rejected: float, ref_chosen: float, ref_rejected: float, beta: float, eps: float
) -> float:
    difference = beta * ((chosen - ref_chosen) - (rejected - ref_rejected))
    sigmoid = 1 / (1 + math.exp(-difference))
    return -(1 - eps) * math.log(sigmoid) - eps * math.log(1 - sigmoid)
