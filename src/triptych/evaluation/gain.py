"""How much looking is worth, and how sure that is.

Clustered standard errors of paired differences as in Miller, Adding Error Bars to Evals
(arXiv 2411.00640): questions about the same images are not independent of each other.
"""

import math
from collections.abc import Hashable, Iterable

NORMAL_95 = 1.96
"""Standard errors on each side of a mean that hold 95 % of a normal distribution."""


def gain_margin(differences: Iterable[tuple[Hashable, float]]) -> float | None:
    """Half the width of the 95 % interval around a mean difference.

    Args:
        differences: for each question its cluster (what images it is about), and how much better
            it was answered seeing than blind: -1, 0 or 1.

    Returns:
        The margin; None with fewer than two clusters, of which nothing can be said.
    """
    rows = list(differences)
    if not rows:
        return None
    mean = sum(value for _, value in rows) / len(rows)
    residuals: dict[Hashable, float] = {}
    for cluster, value in rows:
        residuals[cluster] = residuals.get(cluster, 0.0) + value - mean
    count = len(residuals)
    if count < 2:
        return None
    spread = sum(value**2 for value in residuals.values()) * count / (count - 1)
    return NORMAL_95 * math.sqrt(spread) / len(rows)
