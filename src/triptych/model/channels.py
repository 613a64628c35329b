"""Groups of high-resolution tokens joined to the channels of the tiles in the sequence.

Shape suffixes: T tiles, U of these in the sequence, I images, P tokens of a tile, G groups,
W channels of the towers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from triptych.errors import SpanError
from triptych.fusion import ChannelFusion
from triptych.images.groups import Sampler, tile_groups
from triptych.images.layout import TileLayout
from triptych.images.plan import TilePlan
from triptych.model.stacks import gather


class ChannelGroups:
    """Widens tower features by groups, before the connector.

    Args:
        fusion: how many groups, and how they are sampled.
        layout: of a tile before the connector.
    """

    def __init__(self, fusion: ChannelFusion, layout: TileLayout) -> None:
        self._fusion = fusion
        self._layout = layout

    def join(
        self, features: Tensor, mask: Tensor | None, plans: Sequence[TilePlan] | None
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Join what zooms to what it zooms.

        Args:
            features: (T, P, W) of all tiles.
            mask: bool (T, P), or None.
            plans: of all images.

        Returns:
            Features (U, P, (1 + G) W), the mask (U, P), and tiles in the sequence per image (I,).

        Raises:
            SpanError: there are no plans.
        """
        if plans is None:
            raise SpanError(
                "fusion 'channels' needs the plans of the images to tell the tiles in the sequence "
                "from those that zoom; call the model, or give plans"
            )
        finer = finer_groups(
            features, plans, self._layout, self._fusion.sampler, self._fusion.count
        )
        own = own_tiles(plans, features.device)
        counts = count_own(plans, features.device)
        joined = torch.cat([features[own], *finer], -1)
        return joined, None if mask is None else mask[own], counts


def finer_groups(
    features: Tensor, plans: Sequence[TilePlan], layout: TileLayout, sampler: Sampler, groups: int
) -> Tensor:
    """The groups of what zooms, for each tile in the sequence.

    Args:
        features: (T, P, W) of all tiles.
        plans: of all images.
        layout: of the P tokens.
        sampler: how a mosaic is parted.
        groups: G.

    Returns:
        (G, U, P, W), zeros where there is nothing finer.
    """
    places = [
        tile_groups(plan, layout, sampler, groups).swapaxes(0, 1).reshape(groups, -1)
        for plan in plans
    ]
    shift = [plan.tiles * layout.tokens for plan in plans]
    found = gather(features.flatten(0, 1), places, shift)
    return found.reshape(groups, -1, layout.tokens, features.shape[-1])


def own_tiles(plans: Sequence[TilePlan], device: torch.device) -> Tensor:
    """Places (U,) of the tiles in the sequence among all tiles of a batch."""
    first, places = 0, []
    for plan in plans:
        places.append(torch.arange(first, first + plan.in_sequence, device=device))
        first += plan.tiles
    return torch.cat(places)


def count_own(plans: Sequence[TilePlan], device: torch.device) -> Tensor:
    """Tiles in the sequence of each image (I,)."""
    return torch.tensor([plan.in_sequence for plan in plans], device=device)
