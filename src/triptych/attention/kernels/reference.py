"""The slow reference: every group as a dense masked softmax. Any rule, any layout, any device.

Shape suffixes: B batch, H heads, Q queries, K keys, D head width.
"""

from torch import Tensor


def reference_attention(
    query: Tensor, key: Tensor, value: Tensor, masks: Tensor, scale: float
) -> Tensor:
    """Add the masked softmaxes of all groups.

    Args:
        query: (B, H, Q, D).
        key: (B, Hk, K, D), where Hk divides H.
        value: (B, Hk, K, D).
        masks: bool (groups, B, Q, K), see ``Rule.masks``.
        scale: of the scores.

    Returns:
        (B, H, Q, D); 0 where a query sees nothing.
    """
    share = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(share, 1), value.repeat_interleave(share, 1)
    scores = (query @ key.transpose(-1, -2) * scale).float()
    weights = sum(
        scores.masked_fill(~mask[:, None], float("-inf"))
        .softmax(-1)
        .masked_fill(~mask[:, None], 0.0)
        for mask in masks
    )
    return (weights.to(value.dtype) @ value) if isinstance(weights, Tensor) else query * 0
