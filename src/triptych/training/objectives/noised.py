"""Rejected answers from the model itself: what it says about a noised image (xGen-MM, POVID).

Asked about an image that is nearly gone in noise, a model answers from its language prior. That
answer, set against the right one for the clean image, is what preference tuning should unlearn
(Zhou et al., 2024; Xue et al., 2024). The noise is that of a diffusion process at one step.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from triptych.data.record import ImagePart, Record
from triptych.images.decode import content_hash, open_image
from triptych.inference.engine import Engine
from triptych.inference.sampling import SamplingSpec

STEPS = 1000
CHUNK = 128


def kept_signal(step: int) -> float:
    """Share of the variance that is still the image after ``step`` of 1,000 diffusion steps.

    The variances of the steps rise on a sigmoid from 0.00001 to 0.005: after 500 steps 75 % of the
    variance is the image, after 1,000 steps 8 %.
    """
    place = 1 / (1 + np.exp(-np.linspace(-6, 6, STEPS)))
    variances = place * (0.5e-2 - 1e-5) + 1e-5
    return float(np.prod(1 - variances[:step]))


def noise_image(image: Image.Image, step: int, seed: int) -> Image.Image:
    """Add the noise of ``step`` diffusion steps to an RGB image, its pixels taken as -1 to 1."""
    kept = kept_signal(step)
    pixels = np.asarray(image.convert("RGB"), dtype=np.float64) / 127.5 - 1
    noise = np.random.default_rng(seed).standard_normal(pixels.shape)
    mixed = np.sqrt(kept) * pixels + np.sqrt(1 - kept) * noise
    return Image.fromarray(((mixed + 1) * 127.5).round().clip(0, 255).astype(np.uint8))


def reject_noised(
    engine: Engine,
    records: Sequence[Record],
    *,
    step: int = 500,
    seed: int = 0,
    max_new_tokens: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Record]:
    """Preferences of the chosen answers over the model's own answers to noised images.

    Records without an image are left out, and those of which the model says what was chosen
    although it hardly sees the image.

    Args:
        engine: the model, which answers greedily.
        records: preferences, or conversations whose last answer counts as chosen.
        step: diffusion steps of noise, up to 1,000.
        seed: of the noise.
        max_new_tokens: most tokens of an answer.
        progress: called with the records done and their number.
    """
    asked = [one for one in map(_question, records) if one is not None]
    for start in range(0, len(asked), CHUNK):
        some = asked[start : start + CHUNK]
        prompts = [_noised(record, step, seed) for record in some]
        sampling = SamplingSpec(max_new_tokens=max_new_tokens)
        for record, answer in zip(some, engine.answer(prompts, sampling), strict=True):
            if answer.strip() not in ("", (record.chosen or "").strip()):
                yield replace(record, rejected=answer.strip())
        if progress is not None:
            progress(start + len(some), len(asked))


def _question(record: Record) -> Record | None:
    """The record up to its question, with the answer that is to be preferred."""
    if not record.images:
        return None
    if record.chosen is not None:
        return record
    last = record.messages[-1]
    if not last.learned or len(record.messages) < 2 or last.images:
        return None
    return replace(record, messages=record.messages[:-1], chosen=last.text, rejected=last.text)


def _noised(record: Record, step: int, seed: int) -> list[dict[str, Any]]:
    """Messages of the record with noised images; equal images get equal noise."""
    left = iter(record.images)
    messages: list[dict[str, Any]] = record.to_messages()
    return [
        message
        if isinstance(message["content"], str)
        else {
            **message,
            "content": [
                {"type": "image", "image": _noise_part(next(left), step, seed)}
                if part["type"] == "image"
                else part
                for part in message["content"]
            ],
        }
        for message in messages
    ]


def _noise_part(part: ImagePart, step: int, seed: int) -> Image.Image:
    name = int(content_hash(part.location)[:12], 16)
    return noise_image(open_image(part.location), step, seed ^ name)
