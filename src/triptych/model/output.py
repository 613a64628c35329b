"""TriptychOutput: what the forward pass gives.

Shape suffixes: B batch, S sequence, N supervised tokens, K vocabulary, D width.
"""

from dataclasses import dataclass

from torch import Tensor
from transformers import Cache
from transformers.utils import ModelOutput


@dataclass
class TriptychOutput(ModelOutput):
    """What the forward pass gives.

    Attributes:
        loss: scalar, with labels only.
        logits: (B, S, K), or with labels (N, K) at the supervised positions in row-major order.
        past_key_values: the cache, when one is used.
        hidden_states: of the language model, when asked for.
        attentions: of the language model, when asked for.
        router_logits: of a mixture of experts, when asked for: of each layer (B S, experts).
        inputs_embeds: (B, S, D) with the visual tokens at their places, when only asked to embed.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    router_logits: tuple[Tensor, ...] | None = None
    inputs_embeds: Tensor | None = None
