"""Few queries over a cache: all groups in one masked call, keys and values where they are.

Shape suffixes: B batch, H heads, Hk key heads, G = H / Hk, C groups, Q queries, K keys,
D head width.
"""

from typing import cast

import torch.nn.functional as F
from torch import Tensor


def dense_attention(
    query: Tensor, key: Tensor, value: Tensor, masks: Tensor, scale: float
) -> Tensor:
    """Let every query ask once for each group, and add the answers.

    The query heads of a key head and the groups become rows of one call, so that nothing of a
    long cache is copied or read twice.

    Args:
        query: (B, H, Q, D).
        key: (B, Hk, K, D), where Hk divides H.
        value: (B, Hk, K, D).
        masks: bool (C, B, Q, K), see ``Rule.masks``.
        scale: of the scores.

    Returns:
        (B, H, Q, D); 0 where a query sees nothing.
    """
    groups, batch, queries, keys = masks.shape
    key_heads = key.shape[1]
    share = query.shape[1] // key_heads
    rows = query.unflatten(1, (key_heads, share)).unsqueeze(2).expand(-1, -1, groups, -1, -1, -1)
    seen = masks.transpose(0, 1)[:, :, None].expand(-1, -1, share, -1, -1)
    seen = seen.reshape(batch, 1, -1, keys)
    empty = ~seen.any(-1, keepdim=True)
    out = F.scaled_dot_product_attention(
        rows.flatten(2, 4), key, value, attn_mask=seen | empty, scale=scale
    )
    out = out.masked_fill(empty, 0.0).unflatten(2, (groups, share, queries))
    return cast(Tensor, out.sum(2).flatten(1, 2))
