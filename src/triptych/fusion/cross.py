"""Gated cross-attention layers before decoder layers (Flamingo, Alayrac et al. 2022).

Shape suffixes: B batch, S sequence, N new visual tokens of a sample, K all of them, cached ones
included, D width, H heads.
"""

from dataclasses import dataclass, field
from typing import Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from triptych.errors import RecipeError
from triptych.fusion.cross_cache import CrossMemory
from triptych.spec import Spec


class CrossFusion(Spec):
    """Visual tokens stay outside the sequence; text reads them in gated cross-attention layers.

    An image costs one token of the sequence: the placeholder that marks its place.
    """

    kind: Literal["cross"] = "cross"
    """Names this fusion."""
    every: int = Field(default=4, ge=1)
    """A gated layer stands before every so many-th decoder layer."""
    start: int = Field(default=0, ge=0)
    """The first decoder layer, from 0, that has a gated layer before it."""
    images: Literal["latest", "all"] = "latest"
    """A token sees the visual tokens of the latest image before it, or of all images before it."""
    heads: int = Field(default=8, ge=1)
    """Attention heads of a gated layer."""
    head_width: int = Field(default=64, ge=1)
    """Channels of a head."""
    feed_forward: float = Field(default=4.0, gt=0)
    """Inner width of a gated layer's feed-forward network over the language model's width."""

    def build(self, width: int, layers: int) -> nn.ModuleDict:
        """Make the gated layers by the number of the decoder layer that they stand before.

        Args:
            width: of the language model.
            layers: its decoder layers.

        Raises:
            RecipeError: ``start`` is behind the last of them.
        """
        places = range(self.start, layers, self.every)
        if not places:
            raise RecipeError(
                f"model.fusion.start is {self.start}, but the language model has {layers} decoder "
                f"layers; expected at most {layers - 1}"
            )
        return nn.ModuleDict({str(place): GatedCrossLayer(width, self) for place in places})


@dataclass(frozen=True)
class CrossInputs:
    """What one forward pass of the model hands to all of its gated layers.

    Attributes:
        visual: (B, N, D) visual tokens that came with this pass, or None.
        visible: bool (B, 1, S, K), which of all visual tokens a token sees; a token that sees none
            has True everywhere, so that its softmax is finite.
        sees: bool (B, S, 1), whether a token sees any.
        cache: keeps the keys and values of visual tokens for later passes; None without one.
        reached: the decoder layers that this object came to; written by the layers.
    """

    visual: Tensor | None
    visible: Tensor
    sees: Tensor
    cache: CrossMemory | None
    reached: set[int] = field(default_factory=set)


class GatedCrossLayer(nn.Module):
    """Attention of text to visual tokens, then a feed-forward network, each behind a tanh gate.

    Both gates start at 0, where the layer changes nothing. A token that sees no image is never
    changed, neither by attention nor by the feed-forward network: text alone is the language
    model's own, whatever the gates have learned. Visual tokens are normalised before they become
    keys and values, because connectors need not do it.
    """

    def __init__(self, width: int, spec: CrossFusion) -> None:
        super().__init__()
        inner, hidden = spec.heads * spec.head_width, round(width * spec.feed_forward)
        self.heads = spec.heads
        self.text_norm = nn.LayerNorm(width)
        self.visual_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, inner, bias=False)
        self.key = nn.Linear(width, inner, bias=False)
        self.value = nn.Linear(width, inner, bias=False)
        self.output = nn.Linear(inner, width, bias=False)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, hidden, bias=False),
            nn.GELU(),
            nn.Linear(hidden, width, bias=False),
        )
        self.attention_gate = nn.Parameter(torch.zeros(1))
        self.feed_forward_gate = nn.Parameter(torch.zeros(1))

    def forward(self, hidden: Tensor, inputs: CrossInputs, layer: int) -> Tensor:
        """Hidden states (B, S, D) in, (B, S, D) out, on the way to decoder layer ``layer``."""
        keys, values = self._keys_and_values(inputs, layer)
        read = F.scaled_dot_product_attention(
            self._split(self.query(self.text_norm(hidden))), keys, values, attn_mask=inputs.visible
        )
        out = hidden + self.attention_gate.tanh() * self.output(read.transpose(1, 2).flatten(2))
        out = out + self.feed_forward_gate.tanh() * self.feed_forward(out)
        return torch.where(inputs.sees, out.to(hidden.dtype), hidden)

    def _keys_and_values(self, inputs: CrossInputs, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, K, D / H), those of earlier passes first."""
        new = None
        if inputs.visual is not None:
            visual = self.visual_norm(inputs.visual)
            new = self._split(self.key(visual)), self._split(self.value(visual))
        if inputs.cache is None:
            return cast(tuple[Tensor, Tensor], new)
        return inputs.cache.extend_visual(layer, new)

    def _split(self, states: Tensor) -> Tensor:
        """(B, S, H * D) to (B, H, S, D)."""
        return cast(Tensor, states.unflatten(-1, (self.heads, -1))).transpose(1, 2)


@dataclass(frozen=True)
class SequenceMasks:
    """What divides the sequence of a forward pass, cached tokens included.

    Attributes:
        queries: S, the tokens of this pass, which stand last.
        attention_mask: (B, tokens of the sequence), 0 where padded, or None.
        documents: (B, tokens of the sequence); documents of a packed row do not see each other's
            images; or None.
    """

    queries: int
    attention_mask: Tensor | None
    documents: Tensor | None


def find_visible(
    places: Tensor, first: int, masks: SequenceMasks, images: Literal["latest", "all"]
) -> tuple[Tensor, Tensor]:
    """Say which visual tokens each token sees: those of images whose placeholder it has passed.

    A placeholder sees its own image. An image whose placeholder is masked is seen by nobody.

    Args:
        places: (B, K), for each visual token the place of its image's placeholder in the sequence,
            cached tokens included; -1 for padding.
        first: place of the first query in the sequence.
        masks: what divides the sequence.
        images: all images passed, or the latest alone.

    Returns:
        ``CrossInputs.visible`` and ``CrossInputs.sees``.
    """
    own = torch.arange(first, first + masks.queries, device=places.device)
    shown, at = places >= 0, places.clamp(min=0)
    if masks.attention_mask is not None and masks.attention_mask.dim() == 2:
        shown = shown & (masks.attention_mask.gather(1, at) != 0)
    visible = shown[:, None] & (places[:, None] <= own[None, :, None])
    if masks.documents is not None:
        documents = masks.documents[:, first : first + masks.queries, None]
        visible = visible & (masks.documents.gather(1, at)[:, None] == documents)
    if images == "latest":
        latest = places[:, None].masked_fill(~visible, -1).amax(-1, keepdim=True)
        visible = visible & (places[:, None] == latest)
    sees = visible.any(-1, keepdim=True)
    return (visible | ~sees)[:, None], sees
