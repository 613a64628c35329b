"""DeepStack inside a vision tower, one image at a time and cell by cell (Meng et al., figure 2).

Pixels are cut with PIL, blocks are called one after the other by name. No plan, no table, no batch
of several images.

Shape suffixes: P tokens of a tile, D width, R rows, C columns.
"""

from typing import Any

import numpy as np
import torch
from PIL import Image
from tests.oracles.deepstack import groups_of
from torch import Tensor


def pixels_of(tower: Any, tile: Image.Image) -> Tensor:
    values = torch.from_numpy(np.asarray(tile).copy()).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in (tower.mean, tower.std))
    return (values - mean) / std


def parts_of(tower: Any) -> tuple[Any, list[Any], Any, int]:
    """How pixels become states, the blocks, how states become tokens, tokens before the grid."""
    if type(tower).__name__ == "SmallViT":

        def embed(pixels: Tensor) -> Tensor:
            return tower.stem(pixels).flatten(2).transpose(1, 2) + tower.position

        return embed, list(tower.blocks), tower.norm, 0
    encoder = tower.encoder
    name = encoder.config.model_type
    plain = [lambda states, block=block: block(states, None) for block in blocks_of(encoder, name)]
    if name == "clip_vision_model":
        return lambda x: encoder.pre_layrnorm(encoder.embeddings(x)), plain, lambda s: s[:, 1:], 1
    if name == "siglip_vision_model":
        return encoder.embeddings, plain, lambda s: s, 0
    if name == "vit":
        return encoder.embeddings, plain, lambda s: s[:, 1:], 1
    registers = encoder.config.num_register_tokens if "registers" in name else 0
    prefix = 1 + registers
    return encoder.embeddings, blocks_of(encoder, name), lambda s: s[:, prefix:], prefix


def blocks_of(encoder: Any, name: str) -> list[Any]:
    if name == "vit":
        return list(encoder.layers)
    return list(encoder.encoder.layer if "dinov2" in name else encoder.encoder.layers)


def cut(image: Image.Image, side: int, down: int, across: int) -> list[list[Image.Image]]:
    """The image stretched over ``down`` x ``across`` tiles, row by row."""
    large = image.resize((across * side, down * side), Image.Resampling.BICUBIC)
    return [
        [large.crop((j * side, i * side, (j + 1) * side, (i + 1) * side)) for j in range(across)]
        for i in range(down)
    ]


def cut_padded(
    image: Image.Image, side: int, down: int, across: int
) -> list[list[Image.Image | None]]:
    """The image kept in shape in the middle of the canvas; None where a tile shows nothing of it.

    For images whose scaled sides are whole numbers.
    """
    width, height = across * side, down * side
    factor = min(width / image.width, height / image.height)
    scaled = (round(image.width * factor), round(image.height * factor))
    left, top = (width - scaled[0]) // 2, (height - scaled[1]) // 2
    canvas = Image.new("RGB", (width, height), (127, 127, 127))
    canvas.paste(image.resize(scaled, Image.Resampling.BICUBIC), (left, top))
    rows: list[list[Image.Image | None]] = []
    for i in range(down):
        row: list[Image.Image | None] = []
        for j in range(across):
            box = (j * side, i * side, (j + 1) * side, (i + 1) * side)
            seen = box[0] < left + scaled[0] and box[2] > left
            seen = seen and box[1] < top + scaled[1] and box[3] > top
            row.append(canvas.crop(box) if seen else None)
        rows.append(row)
    return rows


def encode(
    tower: Any,
    overview: Image.Image,
    finer: list[list[Any]],
    places: list[int],
    sampler: str,
) -> Tensor:
    """Tokens (P, D) of an overview with the groups of its finer tiles.

    Args:
        tower: small, CLIP, SigLIP, DINOv2 or ViT, in evaluation mode.
        overview: one tile.
        finer: rows and columns of tiles, None for one that shows nothing; may be empty.
        places: the block before which each group is added.
        sampler: of the mosaic.
    """
    embed, blocks, finish, prefix = parts_of(tower)

    def begin(tile: Image.Image) -> Tensor:
        states = embed(pixels_of(tower, tile))
        for block in blocks[: places[0]]:
            states = block(states)
        return states

    states = begin(overview)
    groups: list[Tensor] = []
    if finer:
        rows, columns = tower.layout.rows, tower.layout.columns
        empty = torch.zeros(rows, columns, states.shape[-1])
        lines = [
            torch.cat(
                [
                    empty if tile is None else begin(tile)[0, prefix:].unflatten(0, (rows, columns))
                    for tile in line
                ],
                1,
            )
            for line in finer
        ]
        groups = groups_of(torch.cat(lines, 0), len(finer), len(finer[0]), sampler)
    for number, block in enumerate(blocks):
        if number < places[0]:
            continue
        if number in places and places.index(number) < len(groups):
            states = states.clone()
            states[0, prefix:] += groups[places.index(number)]
        states = block(states)
    return finish(states)[0]
