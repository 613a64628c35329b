"""Groups of high-resolution tokens added between the blocks of a vision tower (DeepStack-V).

What the model keeps of a tile, caches of tower features included, is its states before the first
of these blocks. The other blocks run on the tiles in the sequence alone.

Shape suffixes: T tiles, U of these in the sequence, I images, P tokens of a tile, Q tokens of a
tile inside the tower, R those of its grid alone, G groups, D width.
"""

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from triptych.errors import SpanError
from triptych.fusion import DeepStackFusion
from triptych.fusion.deepstack import TowerStacks
from triptych.images.layout import TileLayout
from triptych.images.plan import TilePlan
from triptych.model.channels import count_own, finer_groups, own_tiles
from triptych.model.vision import autograd_where_trained, in_chunks
from triptych.towers import BlockTower, Enter, Leave, align


class TowerGroups:
    """Runs the tower up to the first group, and from there to its tokens.

    Args:
        fusion: the blocks, and how the groups are sampled.
        towers: the only tower of the model.
        layout: of a tile before the connector.

    Attributes:
        first_part: from tiles to the states before the first group.
    """

    def __init__(self, fusion: DeepStackFusion, towers: nn.ModuleList, layout: TileLayout) -> None:
        self._producer = cast(TowerStacks, fusion.producer)
        self._places, self._towers, self._layout = fusion.places, towers, layout
        self.first_part = Enter(fusion.places[0])
        own = self._tower.layout
        self._grid = TileLayout(own.rows, own.columns)

    @property
    def _tower(self) -> BlockTower:
        return cast(BlockTower, self._towers[0])

    def join(
        self,
        states: Tensor,
        mask: Tensor | None,
        plans: Sequence[TilePlan] | None,
        tiles_at_once: int | None,
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Add what zooms to what it zooms, and run the other blocks.

        Args:
            states: (T, Q, D) of all tiles, behind ``first_part``.
            mask: bool (T, P), or None.
            plans: of all images.
            tiles_at_once: most tiles in one pass of the tower; all when None.

        Returns:
            Features (U, P, D), the mask (U, P), and tiles in the sequence per image (I,).

        Raises:
            SpanError: there are no plans.
        """
        if plans is None:
            raise SpanError(
                "producer 'tower' needs the plans of the images to tell the tiles in the sequence "
                "from those that zoom; call the model, or give plans"
            )
        tower, one = self._tower, self._producer

        def leave(own: Tensor, groups: Tensor) -> Tensor:
            return cast(Tensor, tower(own, Leave(self._places, groups.transpose(0, 1))))

        with autograd_where_trained(tower):
            states = states.to(next(tower.parameters()).dtype)
            patches = states[:, tower.prefix :]
            groups = finer_groups(patches, plans, self._grid, one.sampler, len(self._places))
            kept = own_tiles(plans, states.device)
            tokens = in_chunks(leave, [states[kept], groups.transpose(0, 1)], tiles_at_once)
            features = align(tokens, tower.layout, self._layout)
        counts = count_own(plans, states.device)
        return features, None if mask is None else mask[kept], counts
