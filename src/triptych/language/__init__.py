"""Language models: loading them, and logits at chosen positions."""

from typing import Annotated

from pydantic import Field

from triptych.language.smollm2 import SmolLM2Language
from triptych.language.tokenizer import TrainedTokenizer, train_tokenizer
from triptych.language.transformers_lm import TransformersLanguage

LanguageSpec = Annotated[TransformersLanguage | SmolLM2Language, Field(discriminator="kind")]

__all__ = [
    "LanguageSpec",
    "SmolLM2Language",
    "TrainedTokenizer",
    "TransformersLanguage",
    "train_tokenizer",
]
