"""ModelSpec: the three panels of a model and how they are joined."""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from triptych.attention import ImageScope, RuleName
from triptych.connectors import (
    ConnectorSpec,
    MlpConnector,
    PerceiverConnector,
    QFormerConnector,
)
from triptych.errors import RecipeError
from triptych.fusion import (
    ChannelFusion,
    CrossFusion,
    DeepStackFusion,
    FusionSpec,
    SpliceFusion,
    find_zoom,
)
from triptych.fusion.deepstack import MosaicStacks, check_places
from triptych.fusion.levels import check_levels
from triptych.images.groups import check_sampler, check_zoom
from triptych.images.layout import TileLayout
from triptych.images.tiling import FixedTiling, TilingSpec
from triptych.language import LanguageSpec, TransformersLanguage
from triptych.spec import Spec
from triptych.towers import TowerGrid, TowerSpec, TowerSpecBase

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
        try:
            self._check_stacks()
        except RecipeError as error:
            raise ValueError(str(error)) from None
        return self

    def _check_stacks(self) -> None:
        """What is known before a source is read; the rest is checked when it has been."""
        latents = isinstance(self.connector, PerceiverConnector | QFormerConnector)
        tile = TileLayout(1, 1)
        check_stacks(self.fusion, self.tiling, self.connector.layout(tile) if latents else tile)
        language = self.language
        given = language.config if isinstance(language, TransformersLanguage) else None
        layers = (given or {}).get("num_hidden_layers")
        fusion = self.fusion
        if not isinstance(fusion, DeepStackFusion):
            return
        if isinstance(layers, int) and not fusion.in_tower:
            check_places(fusion.places, layers)
        if fusion.levels:
            check_levels(None, self.connector.block)
        if fusion.levels or fusion.in_tower:
            check_blocks(fusion, [tower.complete() for tower in self.towers])


def find_conflict(fusion: FusionSpec, attention: str) -> str | None:
    """Say why a fusion and an attention rule cannot be one model; None where they can."""
    if isinstance(fusion, CrossFusion) and attention != "causal":
        return (
            f"fusion 'cross' keeps visual tokens out of the sequence, so attention '{attention}' "
            "would find none to treat apart from text; take attention 'causal', or fusion 'splice'"
        )
    return None


def check_stacks(fusion: FusionSpec, tiling: TilingSpec, layout: TileLayout) -> None:
    """Refuse a finer look that the tiling or the connector cannot have.

    Args:
        fusion: what asks for it.
        tiling: the tiles of the sequence.
        layout: of a tile's visual tokens, behind the connector.

    Raises:
        RecipeError: gives the reason.
    """
    zoom = find_zoom(fusion)
    if zoom is None:
        return
    try:
        check_zoom(zoom, tiling)
        if isinstance(fusion, DeepStackFusion) and isinstance(fusion.producer, MosaicStacks):
            check_sampler(fusion.producer.sampler, layout)
    except RecipeError as error:
        where = "model.fusion" if isinstance(fusion, ChannelFusion) else "model.fusion.producer"
        raise RecipeError(f"{where}: {error}") from None


def check_blocks(fusion: FusionSpec, towers: Sequence[TowerSpecBase]) -> None:
    """Refuse groups between blocks, and levels behind blocks, that a tower does not have.

    Args:
        fusion: what asks for them.
        towers: checked where their configurations are embedded.

    Raises:
        RecipeError: gives the reason.
    """
    if not isinstance(fusion, DeepStackFusion):
        return
    if fusion.in_tower and len(towers) > 1:
        raise RecipeError(
            "model.fusion.producer: 'tower' counts the blocks of one tower, but the model has "
            f"{len(towers)} towers; keep one, or take producer 'mosaic'"
        )
    for tower in towers:
        if not tower.is_known:
            continue
        if fusion.levels:
            _check_block(tower, tower.tappable, max(fusion.levels), "taps block")
        elif fusion.in_tower:
            _check_block(tower, tower.enterable, fusion.places[-1], "adds a group before block")


def _check_block(tower: TowerSpecBase, blocks: int | None, wanted: int, does: str) -> None:
    if blocks is None:
        raise RecipeError(
            f"model.fusion {does} {wanted} of the vision tower, but {tower.label} is not a row of "
            "blocks whose states can be taken; take a tower of the kind 'small', or CLIP, SigLIP, "
            "DINOv2 or ViT, or producer 'mosaic'"
        )
    if wanted >= blocks:
        raise RecipeError(
            f"model.fusion {does} {wanted} of the vision tower, but up to its tapped layer "
            f"{tower.label} has {blocks} blocks, 0 to {blocks - 1}; lower the numbers, or tap a "
            "later layer (layer: -1)"
        )
