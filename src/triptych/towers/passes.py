"""Parts of a pass through a tower of blocks.

They are arguments of the tower's ``forward``, so that whatever wraps the module (sharding, hooks)
sees every use of it.

Shape suffixes: T tiles, P tokens of a tile, Q tokens of a tile inside the tower, R those of its
grid alone, G groups, D width.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from triptych.towers.base import BlockTower


@dataclass(frozen=True)
class Enter:
    """From tiles to the states before block ``stop``."""

    stop: int

    def run(self, tower: BlockTower, given: Tensor) -> Tensor:
        """Uint8 tiles (T, 3, S, S) to states (T, Q, D)."""
        return tower.enter(given, self.stop)


@dataclass(frozen=True)
class Tap:
    """The tokens of the tower, and beside them the output of some ``blocks``."""

    blocks: tuple[int, ...]

    def run(self, tower: BlockTower, given: Tensor) -> Tensor:
        """Uint8 tiles (T, 3, S, S) to (T, P, D * (1 + taps))."""
        return tower.levels(given, self.blocks)


@dataclass(frozen=True)
class Leave:
    """From the states before a block to tokens, with groups added on the way.

    Attributes:
        places: the block before which each group is added, rising; the states are those before the
            first.
        groups: (G, T, R, D), added to the tokens of the grid; CLS and registers stay.
    """

    places: tuple[int, ...]
    groups: Tensor

    def run(self, tower: BlockTower, given: Tensor) -> Tensor:
        """States (T, Q, D) to tokens (T, P, D)."""
        states, prefix = given, tower.prefix
        stops = (*self.places[1:], tower.depth)
        for group, place, stop in zip(self.groups, self.places, stops, strict=True):
            states = states + F.pad(group, (0, 0, prefix, 0)).to(states.dtype)
            states = tower.run(states, place, stop)
        return tower.finish(states)
