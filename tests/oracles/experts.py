"""The load-balancing loss of a mixture of experts, token by token (Fedus et al., 2021)."""

import math
from collections.abc import Sequence


def balance(logits: Sequence[Sequence[Sequence[float]]], mask: Sequence[int], chosen: int) -> float:
    """``logits``: of each layer, of each token, of each expert; ``mask``: 0 for padding."""
    experts = len(logits[0][0])
    used, likely, rows = [0.0] * experts, [0.0] * experts, 0
    for layer in logits:
        for token, kept in zip(layer, mask, strict=True):
            if not kept:
                continue
            rows += 1
            total = sum(math.exp(one) for one in token)
            for expert in range(experts):
                likely[expert] += math.exp(token[expert]) / total
            for expert in sorted(range(experts), key=lambda e: -token[e])[:chosen]:
                used[expert] += 1
    return experts * sum(u / rows * p / rows for u, p in zip(used, likely, strict=True))
