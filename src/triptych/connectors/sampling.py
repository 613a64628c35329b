"""What resamplers share: they turn any number of tokens into a fixed number of latents.

Shape suffixes: T tiles, P tokens of a tile, I images, K keys, D width.
"""

from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from triptych.images.layout import TileLayout

Sampling = Literal["per_tile", "whole_image"]


def latent_layout(latents: int, sampling: Sampling) -> TileLayout:
    """Layout of latents, which have no place in a grid: all stand in front of an empty one."""
    return TileLayout(rows=0, columns=0, prefix=latents, whole_image=sampling == "whole_image")


def join_tiles(
    features: Tensor, mask: Tensor | None, tiles_per_image: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Put the tokens of all tiles of an image into one row, short images filled up.

    Args:
        features: (T, P, D).
        mask: bool (T, P), False on padding, or None.
        tiles_per_image: (I,), sums to T.

    Returns:
        (I, K, D), K being the most tokens that an image has, and bool (I, K), False on padding
        and on what fills up, or None when there is neither.
    """
    counts = tiles_per_image.tolist()
    rows = pad_sequence([row.flatten(0, 1) for row in features.split(counts)], batch_first=True)
    if mask is None and len(set(counts)) == 1:
        return rows, None
    if mask is None:
        mask = torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)
    return rows, pad_sequence([row.flatten() for row in mask.split(counts)], batch_first=True)


class Places(nn.Module):
    """LayerNorm of a tile's tokens, then one learned vector added to each place.

    Attention does not know an order. A vision transformer writes the place into its tokens; a
    convolution does not, and a resampler then reads an unordered set.
    """

    def __init__(self, tile: TileLayout, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.places = nn.Parameter(torch.randn(tile.tokens, width))

    def forward(self, features: Tensor) -> Tensor:
        """(T, P, D) to the same."""
        return cast(Tensor, self.norm(features)) + self.places
