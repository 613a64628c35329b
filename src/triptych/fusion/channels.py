"""Channel concatenation: groups of high-resolution tokens beside a tile's own, in its channels.

A baseline of DeepStack (Meng et al., 2024, equation 7), before the connector: the visual tokens are
as many as without it, and the connector's first layer is as many times wider as there are groups.
"""

from typing import Literal, Self

from pydantic import PositiveInt, model_validator

from triptych.errors import RecipeError
from triptych.fusion.deepstack import MosaicSpec
from triptych.images.tiling import Zoom


class ChannelFusion(MosaicSpec):
    """Groups of a high-resolution look join the channels of the tile, before the connector."""

    kind: Literal["channels"] = "channels"
    """Names this fusion."""
    count: PositiveInt = 4
    """Number of groups."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        try:
            self.zoom(self.count)
        except RecipeError as error:
            raise ValueError(str(error)) from None
        return self

    def finer(self) -> Zoom:
        """The finer tiles that the groups are made of."""
        return self.zoom(self.count)
