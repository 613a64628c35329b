"""Fusion: where and how visual tokens enter the language model."""

from typing import Annotated, Literal

from pydantic import Field

from triptych.fusion.cross import CrossFusion
from triptych.spec import Spec


class SpliceFusion(Spec):
    """Visual tokens take the places of the placeholders in the input sequence."""

    kind: Literal["splice"] = "splice"
    """Names this fusion."""


FusionSpec = Annotated[SpliceFusion | CrossFusion, Field(discriminator="kind")]

__all__ = ["CrossFusion", "FusionSpec", "SpliceFusion"]
