"""Producers of stacks: the groups of visual tokens that DeepStack adds in deeper layers.

Shape suffixes: T tiles, P tokens of a tile before the connector, V visual tokens of a tile,
N visual tokens of the batch, G groups, W channels of the towers, D width.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from triptych.fusion import DeepStackFusion
from triptych.fusion.deepstack import LevelStacks, MosaicStacks, RepeatStacks
from triptych.fusion.levels import LevelMerger
from triptych.images.arrange import arrange
from triptych.images.groups import NOTHING, Places, Sampler, arrange_groups, tile_groups
from triptych.images.layout import TileLayout
from triptych.images.plan import TilePlan
from triptych.model.configuration import Panels


@dataclass(frozen=True)
class SeenTiles:
    """The tiles of a batch, those that zoom among them, behind towers and connector.

    Attributes:
        features: (T, P, W), what the connector was given.
        visual: (T, V, D), what it gave; (I, V, D) where it samples whole images.
        plans: of all images.
    """

    features: Tensor
    visual: Tensor
    plans: Sequence[TilePlan]


class StackProducer(nn.Module, ABC):
    """Makes the groups of all images of a batch; its parameters train with the fusion."""

    @abstractmethod
    def forward(self, tiles: SeenTiles) -> Tensor:
        """Groups (G, N, D), aligned with the visual tokens in the sequence."""


class MosaicProducer(StackProducer):
    """Groups of zooming tiles, behind the same towers and connector.

    Args:
        sampler: how a mosaic is parted.
        groups: G.
        layout: of a tile behind the connector.
    """

    def __init__(self, sampler: Sampler, groups: int, layout: TileLayout) -> None:
        super().__init__()
        self.sampler: Sampler = sampler
        self.groups, self.layout = groups, layout

    def forward(self, tiles: SeenTiles) -> Tensor:
        """Groups (G, N, D), zeros where there is nothing finer."""
        places = [
            arrange_groups(
                arrange(plan, self.layout),
                tile_groups(plan, self.layout, self.sampler, self.groups),
            )
            for plan in tiles.plans
        ]
        shift = [plan.tiles * self.layout.tokens for plan in tiles.plans]
        return gather(tiles.visual.flatten(0, 1), places, shift)


class RepeatProducer(StackProducer):
    """The visual tokens of the sequence again, for every group.

    Args:
        groups: G.
        layout: of a tile behind the connector.
    """

    def __init__(self, groups: int, layout: TileLayout) -> None:
        super().__init__()
        self.groups, self.layout = groups, layout

    def forward(self, tiles: SeenTiles) -> Tensor:
        """Groups (G, N, D), zeros where a learnable token stands."""
        places = [own_places(plan, self.layout)[None] for plan in tiles.plans]
        whole = self.layout.whole_image
        shift = [(1 if whole else plan.tiles) * self.layout.tokens for plan in tiles.plans]
        one = gather(tiles.visual.flatten(0, 1), places, shift)
        return one.expand(self.groups, -1, -1)


class LevelProducer(StackProducer):
    """One group for each tapped level of the towers, through a merger of its own (Qwen3-VL).

    Args:
        levels: how many.
        panels: give the layouts of tokens and the channels of the towers.
        out: width of the language model.
    """

    def __init__(self, levels: int, panels: Panels, out: int) -> None:
        super().__init__()
        self.layout, self.width = panels.layout, panels.tower_width
        tile, side = panels.tower_layout, panels.connector.block or 1
        self.mergers = nn.ModuleList(
            LevelMerger(tile, side, self.width, out) for _ in range(levels)
        )

    def forward(self, tiles: SeenTiles) -> Tensor:
        """Groups (G, N, D), zeros where a learnable token stands."""
        places = [own_places(plan, self.layout)[None] for plan in tiles.plans]
        shift = [plan.tiles * self.layout.tokens for plan in tiles.plans]
        _, *levels = tiles.features.split(self.width, -1)
        groups = []
        for level, merger in zip(levels, self.mergers, strict=True):
            merged = merger(level.to(next(merger.parameters()).dtype))
            groups.append(gather(merged.flatten(0, 1), places, shift))
        return torch.cat(groups)


def make_producer(fusion: DeepStackFusion, panels: Panels, out: int) -> StackProducer:
    """Make what ``fusion.producer`` says.

    Args:
        fusion: says it.
        panels: give the layouts of tokens.
        out: width of the language model.
    """
    spec, groups, layout = fusion.producer, len(fusion.places), panels.layout
    if isinstance(spec, RepeatStacks):
        return RepeatProducer(groups, layout)
    if isinstance(spec, LevelStacks):
        return LevelProducer(groups, panels, out)
    assert isinstance(spec, MosaicStacks)
    return MosaicProducer(spec.sampler, groups, layout)


def own_places(plan: TilePlan, layout: TileLayout) -> Places:
    """For each visual token of an image (V,) its place among its tiles' tokens.

    ``NOTHING`` stands for learnable tokens.
    """
    numbers = np.arange(plan.in_sequence * layout.tokens).reshape(-1, 1, layout.tokens)
    return np.asarray(arrange_groups(arrange(plan, layout), numbers)[0])


def gather(table: Tensor, places: Sequence[Places], shift: Sequence[int]) -> Tensor:
    """Take tokens from the table of a batch, image by image.

    Args:
        table: (tokens of all tiles, D).
        places: (G, tokens) of each image, counted from the image's first, ``NOTHING`` for zeros.
        shift: rows of the table that each image has.

    Returns:
        (G, N, D).
    """
    starts = np.cumsum([0, *shift[:-1]])
    nothing = len(table)
    rows = [
        np.where(own == NOTHING, nothing, own + start)
        for own, start in zip(places, starts, strict=True)
    ]
    index = torch.from_numpy(np.concatenate(rows, 1)).to(table.device)
    full = torch.cat([table, table.new_zeros(1, table.shape[-1])])
    return cast(Tensor, full.index_select(0, index.flatten()).unflatten(0, index.shape))
