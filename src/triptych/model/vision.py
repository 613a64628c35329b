"""From tiles to visual tokens, and their check against the sequence.

Shape suffixes: B batch, S sequence, I images, T tiles, P tokens of a tile, D width.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from triptych.errors import SpanError
from triptych.fusion.spans import check_spans
from triptych.images.layout import TileLayout
from triptych.towers import Enter, Tap, Tower, align

IMAGE_INPUTS = (
    "pixel_values",
    "tile_features",
    "tiles_per_image",
    "images_per_sample",
    "tile_index",
    "image_sizes",
)


@dataclass(frozen=True)
class Images:
    """The images of a batch as the forward pass receives them.

    Attributes:
        pixel_values: uint8 tiles (T, 3, S, S), or None.
        tile_features: cached tower features (T, P, D) instead, or None.
        tiles_per_image: (I,), or None when each tile is an image.
        images_per_sample: (B,), or None for a batch of one.
        tile_index: (T,), place of each tile in what is given, or None when all are given.
        image_sizes: (I, 2) pixels, width first; None where the tiling does not look at them.
    """

    pixel_values: Tensor | None
    tile_features: Tensor | None
    tiles_per_image: Tensor | None
    images_per_sample: Tensor | None
    tile_index: Tensor | None = None
    image_sizes: Tensor | None = None

    @property
    def tiles(self) -> int:
        """Number of tiles of the batch."""
        if self.tile_index is not None:
            return len(self.tile_index)
        given = self.pixel_values if self.tile_features is None else self.tile_features
        return 0 if given is None else len(given)

    def check(self, placeholders: Tensor, tokens: list[int]) -> None:
        """Compare the placeholders of the sequence with the images given.

        Args:
            placeholders: bool (B, S).
            tokens: visual tokens of each image.

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
        check_spans(placeholders, tokens, per_sample)


def check_mask(
    patch_mask: Tensor, features: Tensor, tiles_per_image: Tensor | None, prefix: int
) -> None:
    """Check that every tile shows something: a resampler would make tokens out of nothing.

    Args:
        patch_mask: bool (T, P), False on padding.
        features: (T, P, D), what it is about.
        tiles_per_image: (I,), or None when each tile is an image.
        prefix: how many of the P tokens stand before the grid.

    Raises:
        SpanError: the mask is of another shape, or a tile has only padding.
    """
    if patch_mask.shape != features.shape[:2]:
        found, expected = tuple(patch_mask.shape), tuple(features.shape[:2])
        raise SpanError(f"patch_mask is {found} (tiles, tokens of a tile), expected {expected}")
    empty = (~patch_mask[:, prefix:].any(1)).nonzero().flatten().tolist()
    if not empty:
        return
    before = 0
    for image, count in enumerate(
        [1] * len(features) if tiles_per_image is None else tiles_per_image.tolist(), start=1
    ):
        if empty[0] < before + count:
            raise SpanError(
                f"image {image} of the batch, tile {empty[0] - before + 1} of {count}: patch_mask "
                "says that all of it is padding; leave such a tile out of pixel_values"
            )
        before += count


def encode_tiles(
    towers: nn.ModuleList,
    pixel_values: Tensor,
    layout: TileLayout,
    tiles_at_once: int | None = None,
    part: Enter | Tap | None = None,
) -> Tensor:
    """Run every tower on the tiles (T, 3, S, S) and concatenate their channels: (T, P, D).

    A tower without trainable parameters runs without autograd.

    Args:
        towers: see the same tiles.
        pixel_values: uint8 (T, 3, S, S).
        layout: what the tokens of every tower are brought to.
        tiles_at_once: most tiles in one pass of a tower; all when None.
        part: taps further levels, whose channels follow level by level; or ends before a block of
            the only tower, so that what it gives is that block's input.
    """
    levels = len(part.blocks) if isinstance(part, Tap) else 0
    features: list[list[Tensor]] = [[] for _ in range(1 + levels)]
    for tower in towers:
        own = cast(Tower, tower)
        with autograd_where_trained(own):
            tokens = in_chunks(
                partial(own, part=part) if part else own, [pixel_values], tiles_at_once
            )
            if isinstance(part, Enter):
                return tokens
            aligned = align(tokens, own.layout, layout)
        for channels, level in zip(features, aligned.chunk(1 + levels, -1), strict=True):
            channels.append(level)
    parts = [one for channels in features for one in channels]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def autograd_where_trained(tower: nn.Module) -> AbstractContextManager[object]:
    """Leave autograd on where it is and ``tower`` has parameters that train."""
    trains = any(parameter.requires_grad for parameter in tower.parameters())
    return torch.set_grad_enabled(torch.is_grad_enabled() and trains)


def in_chunks(run: Callable[..., Tensor], given: Sequence[Tensor], at_once: int | None) -> Tensor:
    """Run on tiles in chunks where there are more than ``at_once``.

    With gradients each chunk is computed again in the backward pass, so that the activations of
    one chunk are held at a time.

    Args:
        run: takes as many tensors as are given.
        given: tensors with the tiles in their first dimension.
        at_once: most tiles in a chunk; all when None.
    """
    if at_once is None or len(given[0]) <= at_once:
        return run(*given)
    chunks = zip(*(one.split(at_once) for one in given), strict=True)
    if torch.is_grad_enabled():
        return torch.cat([checkpoint(run, *chunk, use_reentrant=False) for chunk in chunks])
    return torch.cat([run(*chunk) for chunk in chunks])


def repeat_images(
    images: dict[str, Tensor | None], rows: int, times: int
) -> dict[str, Tensor | None]:
    """Repeat the images of each sample ``times`` times, sample by sample.

    The tiles themselves are given once; ``tile_index`` repeats them.
    """
    given = images["pixel_values"] if images["tile_features"] is None else images["tile_features"]
    if given is None or times == 1:
        return images
    index = images["tile_index"]
    index = torch.arange(len(given), device=given.device) if index is None else index
    per_image = images["tiles_per_image"]
    per_image = torch.ones(len(index), dtype=torch.long) if per_image is None else per_image
    per_sample = images["images_per_sample"]
    per_sample = torch.tensor([len(per_image)]) if per_sample is None else per_sample
    samples = torch.repeat_interleave(torch.arange(rows), times)
    chosen_images = _ragged(per_sample.cpu(), samples)
    chosen_tiles = _ragged(per_image.cpu(), chosen_images).to(given.device)
    sizes = images["image_sizes"]
    return images | {
        "tile_index": index[chosen_tiles],
        "tiles_per_image": per_image[chosen_images.to(per_image.device)],
        "images_per_sample": per_sample[samples.to(per_sample.device)],
        "image_sizes": None if sizes is None else sizes[chosen_images.to(sizes.device)],
    }


def _ragged(lengths: Tensor, groups: Tensor) -> Tensor:
    """Indices of all members of the chosen ``groups``, where group g has ``lengths[g]`` members."""
    stops = lengths.cumsum(0)
    ranges = [torch.arange(int(stops[g] - lengths[g]), int(stops[g])) for g in groups.tolist()]
    return torch.cat(ranges) if ranges else torch.empty(0, dtype=torch.long)
