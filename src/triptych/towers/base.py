"""The protocol of a vision tower.

Shape suffixes: T tiles, P tokens of a tile, D width, S side of a tile in pixels.
"""

from abc import ABC, abstractmethod
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from triptych.images.layout import TileLayout


class Tower(nn.Module, ABC):
    """Turns tiles into tokens. A tower owns its resolution and its normalisation.

    Attributes:
        size: side in pixels of the tiles that ``encode`` takes.
        width: channels of a token.
        layout: tokens of one tile.
        mean, std: normalisation in the 0..1 range, one number per RGB channel.
    """

    size: int
    width: int
    layout: TileLayout
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @abstractmethod
    def encode(self, pixels: Tensor) -> Tensor:
        """Encode normalised pixels (T, 3, size, size) into tokens (T, P, D)."""

    def forward(self, tiles: Tensor) -> Tensor:
        """Encode tiles.

        Args:
            tiles: (T, 3, S, S), uint8 in 0..255; resized here where S is not this tower's size.

        Returns:
            Tokens (T, P, D) in the dtype of the tower's parameters.
        """
        dtype = next(self.parameters()).dtype
        pixels = tiles.to(torch.float32) / 255
        if pixels.shape[-1] != self.size:
            pixels = F.interpolate(
                pixels, (self.size, self.size), mode="bicubic", antialias=True, align_corners=False
            ).clamp(0, 1)
        mean = torch.tensor(self.mean, device=tiles.device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=tiles.device).view(1, 3, 1, 1)
        return cast(Tensor, self.encode(((pixels - mean) / std).to(dtype)))
