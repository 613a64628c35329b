"""ModelSpec: the three panels of a model and how they are joined."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from triptych.attention import ImageScope, RuleName
from triptych.connectors import ConnectorSpec, MlpConnector
from triptych.fusion import CrossFusion, FusionSpec, SpliceFusion
from triptych.images.tiling import FixedTiling, TilingSpec
from triptych.language import LanguageSpec
from triptych.spec import Spec
from triptych.towers import TowerGrid, TowerSpec

Numbered = Literal["no", "before", "after"]
Family = Literal["auto", "chatml", "llama3", "mistral", "phi3", "gemma", "compact", "plain"]


class TemplateSpec(Spec):
    """How a conversation is written as text."""

    family: Family = "auto"
    """Chat format; 'auto' chooses it by the control tokens that the tokenizer knows."""
    numbered: Numbered = "no"
    """Number the images over the whole conversation: 'Image k:' before each, or ' k' after it."""
    tags: bool = False
    """Wrap each image in a start and an end token with trainable embeddings."""


class ModelSpec(Spec):
    """A large multimodal model: vision tower(s), connector, language model."""

    towers: Annotated[tuple[TowerSpec, ...], Field(min_length=1)]
    """Vision towers; all see the same tiles, and their channels are concatenated."""
    tower_grid: TowerGrid = "largest"
    """The grid of tokens that all towers are brought to: the largest or smallest of theirs, or the
    side of a square one."""
    tiling: TilingSpec = FixedTiling()
    """How an image is cut into tiles."""
    connector: ConnectorSpec = MlpConnector()
    """From the towers' tokens to visual tokens of the language model's width."""
    fusion: FusionSpec = SpliceFusion()
    """Where visual tokens enter the language model."""
    attention: RuleName = "causal"
    """Which keys a query may see: 'causal', 'mmca' (text reads text and images in two softmaxes, an
    image token keeps its own value), or 'mmca_as_coded' (image tokens also read earlier text)."""
    image_scope: ImageScope = "self"
    """With 'mmca' and 'mmca_as_coded': an image token sees itself, or its whole own image."""
    language: LanguageSpec
    """The language model and its tokenizer."""
    template: TemplateSpec = TemplateSpec()
    """How a conversation is written as text."""

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        conflict = find_conflict(self.fusion, self.attention)
        if conflict is not None:
            raise ValueError(conflict)
        return self


def find_conflict(fusion: FusionSpec, attention: str) -> str | None:
    """Say why a fusion and an attention rule cannot be one model; None where they can."""
    if isinstance(fusion, CrossFusion) and attention != "causal":
        return (
            f"fusion 'cross' keeps visual tokens out of the sequence, so attention '{attention}' "
            "would find none to treat apart from text; take attention 'causal', or fusion 'splice'"
        )
    return None
