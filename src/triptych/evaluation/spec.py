"""EvalSpec: how a model is judged."""

from typing import Literal

from pydantic import Field

from triptych.spec import Spec


class EvalSpec(Spec):
    """Options of an evaluation; decoding is always greedy."""

    history: Literal["reference", "own"] = "reference"
    """Earlier answers in a prompt are those of the record, or those the model gave itself."""
    blind: bool = True
    """Judge the same model also with the images swapped among records."""
    seed: int = 0
    """Seed of the swap of images."""
    limit: int | None = Field(default=None, ge=1)
    """Only the first so many records are judged; all when not given."""
    max_new_tokens: int = Field(default=32, ge=1)
    """Most tokens of an answer."""
    fast: bool = False
    """Only say whether greedy decoding gives the reference token by token; no answers are made."""
