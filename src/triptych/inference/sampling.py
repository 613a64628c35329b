"""How the next token is chosen.

Shape suffixes: B batch, S sequence, W vocabulary.
"""

from typing import cast

import torch
from pydantic import Field
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation.logits_process import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from triptych.spec import Spec


class SamplingSpec(Spec):
    """Options of generation; the defaults decode greedily."""

    max_new_tokens: int = Field(default=256, ge=1)
    """Most tokens an answer may have, its end token included."""
    temperature: float = Field(default=0.0, ge=0.0)
    """Divides the logits before sampling; 0 always takes the likeliest token."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Samples among the likeliest tokens that together hold this share of the probability."""
    top_k: int = Field(default=0, ge=0)
    """Samples among this many likeliest tokens; 0 means all."""
    repetition_penalty: float = Field(default=1.0, gt=0.0)
    """Above 1 makes tokens that already stand in the sequence less likely (CTRL's rule)."""
    seed: int | None = None
    """Makes sampled answers repeatable; unused when greedy."""
    stop: tuple[str, ...] = ()
    """Strings that end an answer; neither they nor what follows are part of it."""

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0.0

    def generation_config(self, stop_ids: frozenset[int], pad_id: int) -> GenerationConfig:
        """The same options for transformers' ``generate``."""
        config = GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            do_sample=not self.greedy,
            repetition_penalty=self.repetition_penalty,
            eos_token_id=sorted(stop_ids),
            pad_token_id=pad_id,
            use_cache=True,
        )
        if not self.greedy:
            config.temperature = self.temperature
            config.top_p = self.top_p
            config.top_k = self.top_k
        if self.stop:
            config.stop_strings = list(self.stop)
        return config


class Sampler:
    """Chooses next tokens as a ``SamplingSpec`` says, with its own random state."""

    def __init__(self, spec: SamplingSpec, device: torch.device) -> None:
        self.greedy = spec.greedy
        self._generator = torch.Generator(device)
        if spec.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(spec.seed)
        self._processors = LogitsProcessorList()
        if spec.repetition_penalty != 1.0:
            self._processors.append(RepetitionPenaltyLogitsProcessor(spec.repetition_penalty))
        if not spec.greedy:
            self._processors.append(TemperatureLogitsWarper(spec.temperature))
            if spec.top_k > 0:
                self._processors.append(TopKLogitsWarper(spec.top_k))
            if spec.top_p < 1.0:
                self._processors.append(TopPLogitsWarper(spec.top_p))

    def __call__(self, sequence: Tensor, logits: Tensor) -> Tensor:
        """Choose one token per row.

        Args:
            sequence: (B, S) tokens so far, for the repetition penalty.
            logits: (B, W) of the next token.

        Returns:
            Token ids (B,).
        """
        scores = cast(Tensor, self._processors(sequence, logits.float()))
        if self.greedy:
            return scores.argmax(-1)
        chances = scores.softmax(-1)
        return torch.multinomial(chances, 1, generator=self._generator).squeeze(-1)
