"""Tiny mmca engines, and the logits of one whole forward pass from pixels to compare with."""

from collections.abc import Sequence
from typing import Any

import torch
from tests.model.tiny import TEXTS, picture, tiny_spec
from torch import Tensor

from triptych.attention import ImageCache
from triptych.inference.engine import Engine
from triptych.inference.growing import GrowingCache
from triptych.inference.prefill import Known, Part
from triptych.inference.vision import Picture
from triptych.model.build import initialise


def engine_of(
    family: str = "llama",
    scope: str = "self",
    *,
    cache: ImageCache | bool = True,
    attention: str = "mmca",
    seed: int = 0,
) -> Engine:
    spec = tiny_spec(family)
    spec = spec.model_copy(update={"attention": attention, "image_scope": scope})
    model, processor = initialise(spec, texts=TEXTS, seed=seed)
    return Engine(model.eval(), processor, image_cache=cache)


def looked(engine: Engine, *numbers: int) -> list[Picture]:
    return engine.vision.look_all([picture(number) for number in numbers])


def sequence(engine: Engine, parts: Sequence[str | Picture]) -> tuple[list[int], list[Picture]]:
    """Token ids of texts and images in the order given, and the images."""
    ids: list[int] = []
    pictures = []
    for part in parts:
        if isinstance(part, str):
            ids += engine.processor.tokenizer(part)["input_ids"]
        else:
            ids += [engine.processor.image_token_id] * engine.processor.count(*part.size)
            pictures.append(part)
    return ids, pictures


@torch.no_grad()
def whole(engine: Engine, ids: Sequence[int], pictures: Sequence[Picture]) -> Tensor:
    """Logits (S, vocabulary) without any cache."""
    tiles = [torch.from_numpy(engine.processor.tiles(one.source)) for one in pictures]
    images: dict[str, Any] = {"pixel_values": torch.cat(tiles)} if tiles else {}
    return engine.model(
        input_ids=torch.tensor([list(ids)]),
        tiles_per_image=torch.tensor([len(one) for one in tiles], dtype=torch.long),
        images_per_sample=torch.tensor([len(tiles)]),
        **images,
    ).logits[0]


@torch.no_grad()
def reused(engine: Engine, parts: Sequence[Part]) -> tuple[Tensor, Tensor, int]:
    """Run parts of one sequence after each other over one cache.

    Returns:
        The places of the tokens that ran (N,), their logits (N, vocabulary), and how many tokens
        went through the language model.
    """
    cache, known = GrowingCache(), Known.nothing(1, engine.model.device)
    places, logits, ran = [], [], 0
    for part in parts:
        step = engine.prefiller.prepare([part], cache, known)
        out = engine.model(**step.arguments(), past_key_values=cache, use_cache=True)
        known = step.known
        places.append(known.places[0, known.places.shape[1] - step.queries :])
        logits.append(out.logits[0])
        ran += step.tokens_run
    return torch.cat(places), torch.cat(logits), ran


def close(found: Tensor, wanted: Tensor, tolerance: float = 1e-5) -> None:
    """Equal up to ``tolerance`` of the largest logit; tokens never to be drawn are -inf in both."""
    finite = wanted.isfinite()
    assert torch.equal(finite, found.isfinite())
    limit = tolerance * max(1.0, float(wanted[finite].abs().max()))
    torch.testing.assert_close(found[finite], wanted[finite], atol=limit, rtol=0)
