"""Fusion: where and how visual tokens enter the language model."""

from typing import Annotated, Literal

from pydantic import Field

from triptych.fusion.channels import ChannelFusion
from triptych.fusion.cross import CrossFusion
from triptych.fusion.deepstack import DeepStackFusion
from triptych.images.tiling import Zoom
from triptych.spec import Spec


class SpliceFusion(Spec):
    """Visual tokens take the places of the placeholders in the input sequence."""

    kind: Literal["splice"] = "splice"
    """Names this fusion."""


FusionSpec = Annotated[
    SpliceFusion | CrossFusion | DeepStackFusion | ChannelFusion, Field(discriminator="kind")
]


def find_zoom(fusion: FusionSpec) -> Zoom | None:
    """The finer tiles that a fusion needs beside those of the sequence."""
    if isinstance(fusion, DeepStackFusion):
        return fusion.zoom
    return fusion.finer() if isinstance(fusion, ChannelFusion) else None


__all__ = [
    "ChannelFusion",
    "CrossFusion",
    "DeepStackFusion",
    "FusionSpec",
    "SpliceFusion",
    "find_zoom",
]
