"""From tiles to visual tokens, and their check against the sequence.

Shape suffixes: B batch, S sequence, I images, T tiles, P tokens of a tile, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from triptych.errors import SpanError
from triptych.fusion.spans import check_spans
from triptych.images.layout import TileLayout

IMAGE_INPUTS = (
    "pixel_values",
    "tile_features",
    "tiles_per_image",
    "images_per_sample",
    "patch_mask",
)


@dataclass(frozen=True)
class Images:
    """The images of a batch as the forward pass receives them.

    Attributes:
        pixel_values: uint8 tiles (T, 3, S, S), or None.
        tile_features: cached tower features (T, P, D) instead, or None.
        tiles_per_image: (I,), or None when each tile is an image.
        images_per_sample: (B,), or None for a batch of one.
        patch_mask: bool (T, P), False on tokens of padding, or None.
    """

    pixel_values: Tensor | None
    tile_features: Tensor | None
    tiles_per_image: Tensor | None
    images_per_sample: Tensor | None
    patch_mask: Tensor | None = None

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
        check_spans(placeholders, [layout.tokens_of(count) for count in tiles], per_sample)


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


def tokens_per_image(tiles_per_image: Tensor | None, layout: TileLayout) -> Tensor | None:
    """Visual tokens (I,) of images of so many tiles (I,)."""
    if tiles_per_image is None:
        return None
    counts = [layout.tokens_of(count) for count in tiles_per_image.tolist()]
    return torch.tensor(counts, device=tiles_per_image.device)


def repeat_images(
    images: dict[str, Tensor | None], rows: int, times: int
) -> dict[str, Tensor | None]:
    """Repeat the images of each sample ``times`` times, sample by sample."""
    tiles = images["pixel_values"] if images["tile_features"] is None else images["tile_features"]
    if tiles is None or times == 1:
        return images
    per_image = images["tiles_per_image"]
    per_image = torch.ones(len(tiles), dtype=torch.long) if per_image is None else per_image
    per_sample = images["images_per_sample"]
    per_sample = torch.tensor([len(per_image)]) if per_sample is None else per_sample
    samples = torch.repeat_interleave(torch.arange(rows), times)
    chosen_images = _ragged(per_sample.cpu(), samples)
    chosen_tiles = _ragged(per_image.cpu(), chosen_images).to(tiles.device)

    def take(name: str, index: Tensor) -> Tensor | None:
        value = images[name]
        return None if value is None else value[index.to(value.device)]

    return {
        "pixel_values": take("pixel_values", chosen_tiles),
        "tile_features": take("tile_features", chosen_tiles),
        "tiles_per_image": per_image[chosen_images.to(per_image.device)],
        "images_per_sample": per_sample[samples.to(per_sample.device)],
        "patch_mask": take("patch_mask", chosen_tiles),
    }


def _ragged(lengths: Tensor, groups: Tensor) -> Tensor:
    """Indices of all members of the chosen ``groups``, where group g has ``lengths[g]`` members."""
    stops = lengths.cumsum(0)
    ranges = [torch.arange(int(stops[g] - lengths[g]), int(stops[g])) for g in groups.tolist()]
    return torch.cat(ranges) if ranges else torch.empty(0, dtype=torch.long)
