"""From the visual tokens of tiles to those of images.

Shape suffixes: B batch, I images, T tiles, P tokens of a tile before the connector, V visual tokens
of a tile, D width.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from triptych.errors import SpanError
from triptych.images.arrange import arrange, learned_tokens, padding_mask, token_sources
from triptych.images.count import image_tokens
from triptych.images.groups import NOTHING
from triptych.images.plan import TilePlan, plan_tiles
from triptych.images.tiling import FixedTiling, TilingSpec
from triptych.model.configuration import Panels
from triptych.model.stacks import own_places
from triptych.model.vision import Images


class TileTokens(nn.Module):
    """Puts the visual tokens of an image in order, learnable tokens among them.

    It plans the images anew from their sizes, so that what the model copies is checked against the
    placeholders that the processor made.

    Args:
        panels: give the tiling and the layouts of tokens.
        width: of a visual token.
        std: of the random learnable tokens.

    Attributes:
        weight: (learnable tokens, D), or None where the tiling has none.
    """

    def __init__(self, panels: Panels, width: int, std: float) -> None:
        super().__init__()
        self.tile_size, self.zoom = panels.tile_size, panels.zoom
        self.layout, self.tower_layout = panels.layout, panels.tower_layout
        self.masks_padding = panels.connector.masks_padding
        tilings = (panels.tiling, *panels.other_tilings)
        wanted = {token for one in tilings for token in learned_tokens(one, self.layout)}
        self.learned = tuple(sorted(wanted))
        rows = torch.empty(len(self.learned), width).normal_(std=std)
        self.weight = nn.Parameter(rows) if self.learned else None
        self._joined = panels.joins_before_connector
        self.cut(panels.tiling)

    def cut(self, tiling: TilingSpec) -> None:
        """Expect images that are cut as ``tiling`` says, one of those the panels know."""
        self.tiling = tiling
        copies = bool(self.learned) or tiling.unpad or tiling.order == "rows"
        copies |= self.zoom is not None and not self._joined
        self._copies = copies and not self.layout.whole_image

    @property
    def blank(self) -> TilePlan:
        """The plan of one tile that shows nothing and is not zoomed."""
        side = self.tile_size
        return plan_tiles(side, side, side, FixedTiling())

    def plan(self, images: Images) -> list[TilePlan]:
        """Plan every image of a batch.

        Raises:
            SpanError: sizes are missing where they are needed, or the tiles given are not those
                of the plans.
        """
        given = images.tiles_per_image
        tiles = [1] * images.tiles if given is None else given.tolist()
        if images.image_sizes is None:
            return self._plan_without_sizes(tiles) if tiles else []
        plans = [
            plan_tiles(width, height, self.tile_size, self.tiling, self.zoom)
            for width, height in images.image_sizes.tolist()
        ]
        if len(tiles) != len(plans):
            raise SpanError(f"image_sizes has {len(plans)} entries for {len(tiles)} images")
        for number, (found, plan) in enumerate(zip(tiles, plans, strict=True), start=1):
            if found != plan.tiles:
                raise SpanError(
                    f"image {number} of the batch ({plan.width}x{plan.height}): expected "
                    f"{plan.tiles} tiles, found {found}; the processor's tiling is not the model's"
                )
        return plans

    def tokens_of(self, width: int, height: int) -> int:
        """Visual tokens of an image of ``width`` x ``height`` pixels."""
        return image_tokens(plan_tiles(width, height, self.tile_size, self.tiling), self.layout)

    def count(self, plans: Sequence[TilePlan]) -> list[int]:
        """Visual tokens of each image."""
        return [image_tokens(plan, self.layout) for plan in plans]

    def mask(self, plans: Sequence[TilePlan], device: torch.device) -> Tensor | None:
        """Mask bool (T, P) for connectors that sample, False on padding; None where none is."""
        if not self.masks_padding or not plans:
            return None
        mask = np.concatenate([padding_mask(plan, self.tower_layout) for plan in plans])
        return None if mask.all() else torch.from_numpy(mask).to(device)

    def forward(self, visual: Tensor, plans: Sequence[TilePlan] | None) -> Tensor:
        """Visual tokens of all images one after the other.

        Args:
            visual: (T, V, D) tokens of all tiles, or (I, V, D) where images are sampled whole. What
                zooms has no visual tokens of its own where it was joined before the connector.
            plans: of all images; None for all tokens and the learnable ones, in no order.
        """
        table = visual.flatten(0, 1)
        if plans is None:
            learned = self.weight
            return table if learned is None else torch.cat([table, learned.to(table.dtype)])
        if not self._copies:
            return table
        if self.weight is not None:
            # In the graph even where no image needs it, so that every rank has its gradient.
            table = torch.cat([table, self.weight.to(table.dtype)])
        rows, first = [], 0
        for plan in plans:
            runs = arrange(plan, self.layout)
            rows.append(
                token_sources(runs, self.layout, self.learned, first_tile=first, tiles=len(visual))
            )
            first += plan.in_sequence if self._joined else plan.tiles
        return table.index_select(0, torch.from_numpy(np.concatenate(rows)).to(table.device))

    def is_learned(self, plans: Sequence[TilePlan], device: torch.device) -> Tensor:
        """Which of all visual tokens (N,) are learnable ones."""
        places = np.concatenate([own_places(plan, self.layout) for plan in plans])
        return torch.from_numpy(places == NOTHING).to(device)

    def _plan_without_sizes(self, tiles: Sequence[int]) -> list[TilePlan]:
        """Plans of images of which only the tiles are known, where these say enough."""
        spec, side = self.tiling, self.tile_size
        looks = self.zoom is not None
        looks |= spec.fit == "pad" and (spec.unpad or self.masks_padding)
        if not isinstance(spec, FixedTiling) or looks:
            raise SpanError(
                f"tiling '{spec.kind}'{', zoomed,' if self.zoom else ''} needs image_sizes (width, "
                "height) of all images; the processor makes them"
            )
        if set(tiles) != {1} and not self.layout.whole_image:
            raise SpanError(f"tiling 'fixed' has one tile for each image, found {list(tiles)}")
        return [plan_tiles(side, side, side, spec)] * len(tiles)
