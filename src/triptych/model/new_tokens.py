"""Embeddings of the tokens that triptych adds to a tokenizer.

Shape suffixes: B batch, S sequence, D width, K vocabulary.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class NewTokens(nn.Module):
    """Rows of their own for token ids ``first`` .. ``first + count - 1``.

    The rows of the language model's own table are neither read for these ids nor written to: the
    new rows train alone, and the pretrained ones stay bit-equal. New tokens are inputs only (image
    placeholder and tags): the model never predicts them.
    """

    def __init__(self, first: int, count: int, width: int, std: float) -> None:
        super().__init__()
        self.first, self.count = first, count
        self.weight = nn.Parameter(torch.empty(count, width).normal_(std=std))

    def embed(self, input_ids: Tensor, table: Callable[[Tensor], Tensor]) -> Tensor:
        """Embed ``input_ids`` (B, S): old ids through ``table``, new ones from the own rows."""
        rows = input_ids - self.first
        new = (rows >= 0) & (rows < self.count)
        old = table(input_ids.masked_fill(new, 0))
        own = F.embedding(rows.clamp(0, self.count - 1), self.weight).to(old.dtype)
        return torch.where(new.unsqueeze(-1), own, old)

    def forbid(self, logits: Tensor) -> Tensor:
        """Set the logits (..., K) of new tokens to -inf."""
        new = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
        new[self.first : self.first + self.count] = True
        return logits.masked_fill(new, float("-inf"))
