"""What a model answers, before and after its export.

Shape suffixes: S sequence, K vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.utils import ModelOutput

from triptych.errors import CheckpointError

# Weights are the same, so what differs is the order of float32 sums.
TOLERANCE = 1e-4
NEW_TOKENS = 8

Messages = Sequence[Mapping[str, Any]]


class Prepares(Protocol):
    """A processor, ours or one of transformers."""

    def apply_chat_template(self, conversation: Messages, **settings: Any) -> Mapping[str, Tensor]:
        """Model inputs of one conversation."""
        ...


class Answers(Protocol):
    """A model, ours, one of transformers, or one with adapters."""

    def __call__(self, **batch: Tensor) -> ModelOutput:
        """An output with logits (B, S, K)."""
        ...

    def generate(self, **batch: Any) -> Tensor:
        """Prompts with their continuations (B, S)."""
        ...


@dataclass(frozen=True)
class Answer:
    """What a model makes of one conversation.

    Attributes:
        ids: tokens of the prompt (S,).
        logits: (S, K), in float32.
        tokens: the greedy continuation.
    """

    ids: Tensor
    logits: Tensor
    tokens: list[int]


@dataclass(frozen=True)
class Comparison:
    """How far the answers of two models are from each other.

    Attributes:
        prompts: conversations compared.
        difference: largest difference of two logits.
        scale: largest size of a logit.
        tokens: greedy tokens compared, all of them equal.
    """

    prompts: int
    difference: float
    scale: float
    tokens: int


def make_prompts(processor: Prepares, side: int, context: int | None) -> list[Messages]:
    """Conversations with none, one, and two images in two rounds, as far as the context allows.

    Args:
        processor: of the model.
        side: of its tiles in pixels.
        context: most tokens that the language model takes.
    """
    images = [_noise(0, 2 * side, side), _noise(1, side, side), _noise(2, side // 2 + 1, side)]
    prompts: list[Messages] = [
        [_ask("What is 2 and 3?")],
        [_ask("What is in the picture?", images[0])],
        [
            _ask("What is in the picture?", images[1]),
            {"role": "assistant", "content": "It is a noise."},
            _ask("And in this one?", images[2]),
        ],
    ]
    if context is None:
        return prompts
    lengths = [prepare(processor, one)["input_ids"].shape[1] for one in prompts]
    fit = [one for one, length in zip(prompts, lengths, strict=True) if length <= context]
    return fit if len(fit) > 1 else prompts[:2]  # an image is looked at in any case


def prepare(processor: Prepares, messages: Messages) -> dict[str, Tensor]:
    """Model inputs of one conversation that waits for an answer."""
    batch = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    return dict(batch)


@torch.no_grad()
def observe(model: Answers, processor: Prepares, prompts: Sequence[Messages]) -> list[Answer]:
    """Logits and greedy continuation of every prompt."""
    answers = []
    for messages in prompts:
        batch = prepare(processor, messages)
        logits = model(**batch).logits[0].float()
        length = batch["input_ids"].shape[1]
        grown = model.generate(**batch, do_sample=False, max_new_tokens=NEW_TOKENS)
        answers.append(Answer(batch["input_ids"][0], logits, grown[0, length:].tolist()))
    return answers


def compare(expected: Sequence[Answer], found: Sequence[Answer], where: str) -> Comparison:
    """Compare the answers of a model before its export with those of what was written.

    Tokens that the model never predicts (logits of -inf) are left out.

    Raises:
        CheckpointError: they differ.
    """
    difference = scale = 0.0
    for number, (one, other) in enumerate(zip(expected, found, strict=True), start=1):
        if one.ids.tolist() != other.ids.tolist():
            raise CheckpointError(
                f"{where}: the exported processor makes other tokens of prompt {number} of the "
                f"check ({len(other.ids)} tokens, expected {len(one.ids)}); nothing was written. "
                "Export with --format triptych"
            )
        kept = torch.isfinite(one.logits)
        size = float(one.logits[kept].abs().max())
        apart = float((one.logits - other.logits)[kept].abs().max())
        if not apart <= TOLERANCE * max(size, 1.0):
            raise CheckpointError(
                f"{where}: the exported model differs from the original on prompt {number} of the "
                f"check: logits by {apart:.3g}, with logits up to {size:.3g}; nothing was written"
            )
        if one.tokens != other.tokens:
            raise CheckpointError(
                f"{where}: the exported model answers prompt {number} of the check with the tokens "
                f"{other.tokens}, the original with {one.tokens}; nothing was written"
            )
        difference, scale = max(difference, apart), max(scale, size)
    return Comparison(len(expected), difference, scale, sum(len(one.tokens) for one in expected))


def _ask(text: str, *images: Image.Image) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"type": "image", "image": image} for image in images]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def _noise(seed: int, width: int, height: int) -> Image.Image:
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))
