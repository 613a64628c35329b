"""Splice and loss, row by row, from their definitions."""

import math

import torch
from torch import Tensor


def splice_rows(embeddings: Tensor, placeholders: Tensor, visual: Tensor) -> Tensor:
    out = embeddings.clone()
    used = 0
    for b in range(embeddings.shape[0]):
        for s in range(embeddings.shape[1]):
            if placeholders[b, s]:
                out[b, s] = visual[used]
                used += 1
    assert used == len(visual)
    return out


def summed_loss(logits: Tensor, labels: Tensor) -> tuple[float, int]:
    """Sum over positions whose NEXT token is supervised of -log p(next token), and their number."""
    total, count = 0.0, 0
    for b in range(labels.shape[0]):
        for s in range(labels.shape[1] - 1):
            target = int(labels[b, s + 1])
            if target == -100:
                continue
            row = [float(x) for x in logits[b, s]]
            top = max(row)
            normaliser = top + math.log(sum(math.exp(x - top) for x in row))
            total += normaliser - row[target]
            count += 1
    return total, count


def fold_blocks(features: Tensor, rows: int, columns: int, factor: int) -> Tensor:
    """Pixel shuffle by explicit loops over the blocks of each tile."""
    tiles = []
    for tile in features:
        tokens = []
        for r in range(0, rows, factor):
            for c in range(0, columns, factor):
                block = [
                    tile[(r + i) * columns + c + j] for i in range(factor) for j in range(factor)
                ]
                tokens.append(torch.cat(block))
        tiles.append(torch.stack(tokens))
    return torch.stack(tiles)
