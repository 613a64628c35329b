"""Fusion: where and how visual tokens enter the language model."""

from typing import Literal

from triptych.spec import Spec


class SpliceFusion(Spec):
    """Visual tokens take the places of the placeholders in the input sequence."""

    kind: Literal["splice"] = "splice"
    """Names this fusion."""


FusionSpec = SpliceFusion

__all__ = ["FusionSpec", "SpliceFusion"]
