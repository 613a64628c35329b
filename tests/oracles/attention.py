"""Attention rules row by row, straight from their definitions, with loops and no mask.

mmca, text row i:   softmax over text j <= i, plus softmax over image tokens j <= i
mmca, image row i:  its own value (image_scope image: softmax over the tokens of its image)
mmca_as_coded:      image rows add a softmax over the text before them
causal:             softmax over all j <= i that are no padding
Only tokens of the same document count; an empty softmax adds 0; padding rows are 0.
"""

import torch
from torch import Tensor

PAD, TEXT, IMAGE = 0, 1, 2


def oracle(
    name: str,
    scope: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kinds: Tensor,
    scale: float,
    documents: Tensor | None = None,
    images: Tensor | None = None,
    places: Tensor | None = None,
) -> Tensor:
    batch, heads, queries, _ = query.shape
    total = kinds.shape[1]
    key, value = (one.repeat_interleave(heads // key.shape[1], 1) for one in (key, value))
    rows = []
    for b in range(batch):
        kind = kinds[b].tolist()
        document = documents[b].tolist() if documents is not None else [0] * total
        image = images[b].tolist() if images is not None else number_images(kind)
        place = places[b].tolist() if places is not None else list(range(total))
        for q in range(queries):
            i = total - queries + q
            out = torch.zeros_like(query[b, :, q])
            for seen in groups(name, scope, i, kind, document, image, place):
                if seen:
                    scores = torch.einsum("hd,hkd->hk", query[b, :, q], key[b, :, seen]) * scale
                    out = out + torch.einsum("hk,hkd->hd", scores.softmax(1), value[b, :, seen])
            rows.append(out)
    return torch.stack(rows).unflatten(0, (batch, queries)).transpose(1, 2)


def groups(
    name: str,
    scope: str,
    i: int,
    kind: list[int],
    document: list[int],
    image: list[int],
    place: list[int],
) -> list[list[int]]:
    mine = [j for j in range(len(kind)) if document[j] == document[i] and kind[j] != PAD]
    before = [j for j in mine if place[j] <= place[i]]
    if kind[i] == PAD:
        return []
    if name == "causal":
        return [before]
    text = [j for j in before if kind[j] == TEXT]
    if kind[i] == TEXT:
        return [text, [j for j in before if kind[j] == IMAGE]]
    own = [i] if scope == "self" else [j for j in mine if kind[j] == IMAGE and image[j] == image[i]]
    return [own, text] if name == "mmca_as_coded" else [own]


def number_images(kind: list[int]) -> list[int]:
    """Each unbroken run of image tokens is an image."""
    numbers, number = [], 0
    for j, one in enumerate(kind):
        number += one == IMAGE and (j == 0 or kind[j - 1] != IMAGE)
        numbers.append(number)
    return numbers
