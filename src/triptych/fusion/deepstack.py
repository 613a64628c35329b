"""DeepStack: groups of visual tokens added before decoder layers (Meng et al., 2024).

Shape suffixes: B batch, S sequence, G groups, D width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isqrt
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn

from triptych.errors import RecipeError
from triptych.images.groups import Sampler
from triptych.images.tiling import Fit, Zoom
from triptych.spec import Spec


class MosaicSpec(Spec):
    """What a high-resolution look at tiles is, and how it is parted into groups."""

    of: Literal["overview", "tiles"] = "overview"
    """Look again at the tile of the whole image (DeepStack-L), or at every tile of the sequence
    (DeepStack-L-HD)."""
    grids: Annotated[tuple[tuple[PositiveInt, PositiveInt], ...], Field(min_length=1)] | None = None
    """Candidate grids of finer tiles as [rows, columns], the one that shows most of the image is
    taken; default: all of 2 tiles up to the number of groups, or with of 'tiles' the largest square
    one."""
    fit: Fit = "stretch"
    """Cut the tile's own view finer, distorted as it is, or keep the shape of the image and pad the
    grid, so that groups and tile are no longer aligned (published as 'inconsistent')."""
    sampler: Sampler = "2d"
    """Part the mosaic of finer tiles into dilated samples in two dimensions ('2d'), along its rows
    ('1d'), or into the finer tiles ('grid')."""

    def zoom(self, groups: int) -> Zoom:
        """The finer look, for at most so many groups.

        Raises:
            RecipeError: a candidate grid has more tiles, or several are given for all tiles.
        """
        sides = range(1, groups + 1)
        found = self.grids
        if found is None and self.of == "tiles":
            found = ((isqrt(groups), isqrt(groups)),)
        elif found is None:
            found = tuple((r, c) for r in sides for c in sides if 2 <= r * c <= groups)
        if not found:
            raise RecipeError(
                "one group has no grid of finer tiles by default; give grids: [[1, 1]], or more "
                "groups"
            )
        large = next(((r, c) for r, c in found if r * c > groups), None)
        if large is not None:
            raise RecipeError(
                f"a grid of {large[0]} x {large[1]} tiles makes {large[0] * large[1]} groups, more "
                f"than the {groups} that have a layer; add layers, or take a smaller grid"
            )
        if self.of == "tiles" and (len(found) > 1 or self.fit == "pad"):
            raise RecipeError(
                "of 'tiles' cuts every tile, which is square, in the same way: give one grid and "
                "fit: stretch"
            )
        return Zoom(of=self.of, grids=found, fit=self.fit)


class MosaicStacks(MosaicSpec):
    """Groups of a high-resolution look, through the same towers and connector."""

    kind: Literal["mosaic"] = "mosaic"
    """Names this producer."""


class RepeatStacks(Spec):
    """Every group is the tile's own visual tokens again: the paper's dummy tokens."""

    kind: Literal["repeat"] = "repeat"
    """Names this producer."""


class TowerStacks(MosaicSpec):
    """Groups of a high-resolution look, added inside the vision tower (DeepStack-V).

    All tiles go through the first blocks of the tower, those of the sequence alone through the
    others. Nothing is added in the language model, and no place in the fusion counts its layers.
    """

    kind: Literal["tower"] = "tower"
    """Names this producer."""


class LevelStacks(Spec):
    """One group for each of several blocks of the towers, through its own merger (Qwen3-VL)."""

    kind: Literal["levels"] = "levels"
    """Names this producer."""
    blocks: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]
    """Blocks of the towers, from 0, whose outputs are tapped; the first one makes the first
    group."""


StackProducerSpec: TypeAlias = Annotated[
    MosaicStacks | RepeatStacks | TowerStacks | LevelStacks, Field(discriminator="kind")
]


class DeepStackFusion(Spec):
    """Visual tokens in the sequence, and groups of further ones added to them in deeper layers.

    The sequence is as long as without the groups: a group is added to the hidden states at the
    image's place, before its layer.
    """

    kind: Literal["deepstack"] = "deepstack"
    """Names this fusion."""
    start: NonNegativeInt = 1
    """The decoder layer, from 0, before which the first group is added; with producer 'tower' the
    block of the tower."""
    interval: PositiveInt = 1
    """Layers from one group to the next."""
    count: PositiveInt = 4
    """Number of groups; with producer 'levels' by default that of the levels."""
    layers: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] | None = None
    """The layers before which the groups are added, one each and rising; takes the place of start,
    interval and count."""
    producer: StackProducerSpec = MosaicStacks()
    """What the groups are made of."""
    sequence: Literal["tokens", "zeros"] = "tokens"
    """What stands in the sequence at the image's place: the visual tokens, or zeros, so that
    nothing of the image is known before the first group is added."""

    @model_validator(mode="before")
    @classmethod
    def _count_levels(cls, data: object) -> object:
        if not isinstance(data, Mapping) or "count" in data:
            return data
        producer = data.get("producer")
        blocks = producer.blocks if isinstance(producer, LevelStacks) else None
        if isinstance(producer, Mapping) and producer.get("kind") == "levels":
            blocks = producer.get("blocks")
        return {**data, "count": len(blocks)} if isinstance(blocks, Sequence) and blocks else data

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if list(self.places) != sorted(set(self.places)):
            raise ValueError(f"layers {list(self.places)} have to rise, one group before each")
        if self.levels and len(self.levels) != len(self.places):
            raise ValueError(
                f"producer: {len(self.levels)} levels need as many layers, found "
                f"{len(self.places)}; leave count out, or give one of layers for each of blocks"
            )
        if self.in_tower and self.sequence == "zeros":
            raise ValueError(
                "sequence 'zeros' would leave nothing of the image: with producer 'tower' no group "
                "is added in the language model; set sequence: tokens"
            )
        try:
            _ = self.zoom
        except RecipeError as error:
            raise ValueError(f"producer: {error}") from None
        return self

    @property
    def places(self) -> tuple[int, ...]:
        """The decoder layer of each group."""
        if self.layers is not None:
            return self.layers
        return tuple(self.start + group * self.interval for group in range(self.count))

    @property
    def zoom(self) -> Zoom | None:
        """The finer tiles that the groups are made of; None where they need none."""
        if isinstance(self.producer, MosaicSpec):
            return self.producer.zoom(len(self.places))
        return None

    @property
    def in_tower(self) -> bool:
        """Whether the groups are added between blocks of the tower."""
        return isinstance(self.producer, TowerStacks)

    @property
    def levels(self) -> tuple[int, ...]:
        """The blocks of the towers that are tapped, if any."""
        return self.producer.blocks if isinstance(self.producer, LevelStacks) else ()

    def build(self, layers: int) -> nn.ModuleDict:
        """Make what runs before decoder layers, by their numbers.

        Args:
            layers: decoder layers of the language model.

        Raises:
            RecipeError: a group has a layer that the language model does not have.
        """
        check_places(self.places, layers)
        return nn.ModuleDict({str(at): AddGroup(group) for group, at in enumerate(self.places)})


def check_places(places: Sequence[int], layers: int) -> None:
    """Refuse layers that are not there.

    Raises:
        RecipeError: names the layer.
    """
    if places[-1] >= layers:
        raise RecipeError(
            f"model.fusion adds a group before decoder layer {places[-1]}, but the language model "
            f"has {layers} decoder layers, 0 to {layers - 1}; lower start, interval or count, or "
            "give layers"
        )


@dataclass(frozen=True)
class StackInputs:
    """What one forward pass hands to the layers.

    Attributes:
        groups: G times (B, S, D), zeros wherever no visual token stands. Apart from each other, so
            that no gradient of one is spread over all.
        reached: the decoder layers that this object came to; written by the layers.
    """

    groups: tuple[Tensor, ...]
    reached: set[int] = field(default_factory=set)


class AddGroup(nn.Module):
    """Adds one group to the hidden states; it has no parameters."""

    def __init__(self, group: int) -> None:
        super().__init__()
        self.group = group

    def forward(self, hidden: Tensor, inputs: StackInputs, layer: int) -> Tensor:
        """Hidden states (B, S, D) in, (B, S, D) out, on the way to decoder layer ``layer``."""
        return hidden + inputs.groups[self.group].to(hidden.dtype)
