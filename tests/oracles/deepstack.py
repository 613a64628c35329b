"""DeepStack from its definition: pixels cut slowly, groups cell by cell, layers one by one.

No batch, no plan, no table: one image at a time, from the published equations (4 and 5).

Shape suffixes: S sequence, V visual tokens of an image, G groups, D width, R rows, C columns.
"""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def groups_of(mosaic: Tensor, down: int, across: int, sampler: str) -> list[Tensor]:
    """The groups (R * C, D) of a mosaic (down * R, across * C, D), cell by cell."""
    rows, columns = mosaic.shape[0] // down, mosaic.shape[1] // across
    found = []
    for k in range(down * across):
        i, j = divmod(k, across)
        cells = []
        for r in range(rows):
            for c in range(columns):
                if sampler == "2d":
                    cells.append(mosaic[r * down + i, c * across + j])
                elif sampler == "grid":
                    cells.append(mosaic[i * rows + r, j * columns + c])
                else:
                    place = (r * columns + c) * down * across + k
                    cells.append(mosaic[divmod(place, across * columns)])
        found.append(torch.stack(cells))
    return found


def look(
    model: Any, image: Image.Image, down: int, across: int, *, connect: bool = True
) -> tuple[Tensor, Tensor]:
    """The overview (V, D) and the mosaic (down * R, across * C, D) of a stretched image.

    Args:
        model: a model.
        image: the image.
        down: rows of finer tiles.
        across: columns of finer tiles.
        connect: behind the connector, or before it.
    """
    side, layout = model.tile_size, model.layout if connect else model.tower_layout
    overview = _tokens(model, image.resize((side, side), Image.Resampling.BICUBIC), connect)
    large = image.resize((across * side, down * side), Image.Resampling.BICUBIC)
    lines = []
    for i in range(down):
        tiles = []
        for j in range(across):
            box = (j * side, i * side, (j + 1) * side, (i + 1) * side)
            tokens = _tokens(model, large.crop(box), connect)
            tiles.append(tokens.unflatten(0, (layout.rows, layout.columns)))
        lines.append(torch.cat(tiles, 1))
    return overview, torch.cat(lines, 0)


def _tokens(model: Any, tile: Image.Image, connect: bool) -> Tensor:
    pixels = torch.from_numpy(np.asarray(tile).copy()).permute(2, 0, 1)[None]
    features = model.towers[0](pixels)
    return (model.connector(features) if connect else features)[0]


def run(
    model: Any,
    ids: Tensor,
    images: list[tuple[Tensor, list[Tensor]]],
    places: list[int],
    *,
    after: bool = False,
) -> Tensor:
    """Logits (S, K) of one unpadded sample by itself, layer by layer.

    Args:
        model: a model over a language model of the Llama kind.
        ids: (S,).
        images: for each image its tokens (V, D) and its groups (V, D), fewer than places perhaps.
        places: the layer of each group.
        after: add behind the layer before instead, as the paper writes it; no place may be 0.
    """
    hidden = model.new_tokens.embed(ids[None], model.get_input_embeddings()).clone()
    spans, start = [], 0
    visual = (ids == model.config.image_token_id).nonzero().flatten().tolist()
    for tokens, _ in images:
        spans.append(visual[start : start + len(tokens)])
        start += len(tokens)
        hidden[0, spans[-1]] = tokens
    decoder = model.language_model.get_decoder()
    positions = torch.arange(len(ids))[None]
    rotation = decoder.rotary_emb(hidden, position_ids=positions)
    for number, layer in enumerate(decoder.layers):
        if number in places and not after:
            _add(hidden, spans, images, places.index(number))
        hidden = layer(hidden, position_embeddings=rotation, position_ids=positions).clone()
        if number + 1 in places and after:
            _add(hidden, spans, images, places.index(number + 1))
    logits = model.get_output_embeddings()(decoder.norm(hidden))[0]
    return model.new_tokens.forbid(logits)


def _add(
    hidden: Tensor, spans: list[list[int]], images: list[tuple[Tensor, list[Tensor]]], group: int
) -> None:
    for span, (_, groups) in zip(spans, images, strict=True):
        if group < len(groups):
            hidden[0, span] += groups[group]
