"""Write visual tokens into the embedding sequence.

Shape suffixes: B batch, S sequence, V visual tokens of the batch, D width.
"""

from torch import Tensor


def splice(embeddings: Tensor, placeholders: Tensor, visual: Tensor) -> Tensor:
    """Replace the embeddings at ``placeholders`` by ``visual``, in row-major order.

    Args:
        embeddings: (B, S, D).
        placeholders: bool (B, S) with exactly V True entries (see ``check_spans``).
        visual: (V, D), cast to the dtype of ``embeddings``.

    Returns:
        (B, S, D); gradients reach ``visual`` and the kept embeddings.
    """
    return embeddings.masked_scatter(placeholders.unsqueeze(-1), visual.to(embeddings.dtype))
