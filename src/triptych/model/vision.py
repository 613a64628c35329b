"""From tiles to visual tokens, and their check against the sequence.

Shape suffixes: B batch, S sequence, I images, T tiles, P tokens of a tile, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from triptych.errors import SpanError
from triptych.fusion.spans import check_spans
from triptych.images.layout import TileLayout


@dataclass(frozen=True)
class Images:
    """The images of a batch as the forward pass receives them.

    Attributes:
        pixel_values: uint8 tiles (T, 3, S, S), or None.
        tile_features: cached tower features (T, P, D) instead, or None.
        tiles_per_image: (I,), or None when each tile is an image.
        images_per_sample: (B,), or None for a batch of one.
    """

    pixel_values: Tensor | None
    tile_features: Tensor | None
    tiles_per_image: Tensor | None
    images_per_sample: Tensor | None

    @property
    def tiles(self) -> int:
        """Number of tiles of the batch."""
        given = self.pixel_values if self.tile_features is None else self.tile_features
        return 0 if given is None else len(given)

    def check(self, placeholders: Tensor, layout: TileLayout) -> None:
        """Compare the placeholders bool (B, S) of the sequence with the images given.

        Raises:
            SpanError: names sample, image, expected and found count.
        """
        given = self.tiles_per_image
        tiles: list[int] = [1] * self.tiles if given is None else given.tolist()
        if sum(tiles) != self.tiles:
            raise SpanError(f"tiles_per_image sums to {sum(tiles)}, found {self.tiles} tiles")
        if self.images_per_sample is not None:
            per_sample = self.images_per_sample.tolist()
        elif len(placeholders) == 1 or not tiles:
            per_sample = [len(tiles)] + [0] * (len(placeholders) - 1)
        else:
            raise SpanError(
                f"a batch of {len(placeholders)} samples with {len(tiles)} images needs "
                "images_per_sample; the processor makes it"
            )
        check_spans(placeholders, [count * layout.tokens for count in tiles], per_sample)


def encode_tiles(towers: nn.ModuleList, pixel_values: Tensor) -> Tensor:
    """Run every tower on the tiles (T, 3, S, S) and concatenate their channels: (T, P, D).

    A tower without trainable parameters runs without autograd.
    """
    features = []
    for tower in towers:
        trains = torch.is_grad_enabled() and any(p.requires_grad for p in tower.parameters())
        with torch.set_grad_enabled(trains):
            features.append(tower(pixel_values))
    return features[0] if len(features) == 1 else torch.cat(features, dim=-1)
