"""Gated cross-attention, one token after the other, from the definition (Flamingo, section 2.4).

No batch of images, no mask, no cache: every sample by itself, every layer by itself.

Shape suffixes: S sequence, I images, V visual tokens of an image, D width, H heads.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn


def gated(
    layer: nn.Module, hidden: Tensor, images: list[tuple[int, Tensor]], which: str, heads: int
) -> Tensor:
    """One gated layer on the hidden states (S, D) of one sample.

    Args:
        layer: its weights.
        hidden: (S, D).
        images: place of the placeholder and visual tokens (V, D) of each image.
        which: "latest" or "all".
        heads: attention heads.
    """
    rows = []
    for place, row in enumerate(hidden):
        before = [visual for at, visual in images if at <= place]
        if not before:
            rows.append(row)
            continue
        seen = torch.cat(before) if which == "all" else before[-1]
        rows.append(_read(layer, row, seen, heads))
    return torch.stack(rows)


def _read(layer: Any, row: Tensor, seen: Tensor, heads: int) -> Tensor:
    """One token (D,) that sees visual tokens (V, D)."""
    question = layer.query.weight @ _norm(layer.text_norm, row)
    visual = torch.stack([_norm(layer.visual_norm, one) for one in seen])
    keys, values = visual @ layer.key.weight.T, visual @ layer.value.weight.T
    width = len(question) // heads
    answers = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        scores = keys[:, part] @ question[part] / math.sqrt(width)
        weights = (scores - scores.max()).exp()
        answers.append((weights / weights.sum()) @ values[:, part])
    row = row + math.tanh(float(layer.attention_gate)) * (layer.output.weight @ torch.cat(answers))
    norm, first, _, second = layer.feed_forward
    inner = first.weight @ _norm(norm, row)
    inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
    return row + math.tanh(float(layer.feed_forward_gate)) * (second.weight @ inner)


def _norm(norm: Any, row: Tensor) -> Tensor:
    centred = row - row.mean()
    return centred / (centred.square().mean() + norm.eps).sqrt() * norm.weight + norm.bias


def run(model: Any, ids: Tensor, visual: list[Tensor], which: str, heads: int) -> Tensor:
    """Logits (S, K) of one unpadded sample by itself, layer by layer.

    Args:
        model: a model with cross fusion over a language model of the Llama kind.
        ids: (S,).
        visual: visual tokens (V, D) of each image, in order.
        which: "latest" or "all".
        heads: attention heads of the gated layers.
    """
    places = (ids == model.config.image_token_id).nonzero().flatten().tolist()
    images = list(zip(places, visual, strict=True))
    decoder = model.language_model.get_decoder()
    hidden = model.new_tokens.embed(ids[None], model.get_input_embeddings())
    positions = torch.arange(len(ids))[None]
    rotation = decoder.rotary_emb(hidden, position_ids=positions)
    for number, layer in enumerate(decoder.layers):
        if str(number) in model.cross_layers:
            hidden = gated(model.cross_layers[str(number)], hidden[0], images, which, heads)[None]
        hidden = layer(hidden, position_embeddings=rotation, position_ids=positions)
    logits = model.get_output_embeddings()(decoder.norm(hidden))[0]
    return model.new_tokens.forbid(logits)
