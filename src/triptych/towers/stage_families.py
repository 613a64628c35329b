"""Convolutional encoders: their hidden states are maps that shrink from stage to stage.

Shape suffixes: T tiles, P tokens of a tile, D width, G side of a grid.
"""

import math
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel

from triptych.errors import RecipeError
from triptych.towers.family import Config, Family, square


@dataclass(frozen=True)
class StageFamily(Family):
    """ConvNeXt: hidden state k is the map behind stage k."""

    @property
    def convolutional(self) -> bool:
        """Whether most of the work is convolutions."""
        return True

    def depth(self, config: Config) -> int:
        """Number of stages."""
        return int(config["num_stages"])

    def width(self, config: Config, tap: int) -> int:
        """Channels of the tapped stage."""
        return int(config["hidden_sizes"][tap - 1])

    def side(self, config: Config, tap: int, size: int) -> int:
        """The stem divides by its patch, each later stage by two."""
        side = size // square(config["patch_size"], "patch_size")
        for _ in range(1, tap):
            side //= 2
        return side

    def cut(self, config: Config, tap: int) -> Config:
        """Fewer stages."""
        if tap < 1:
            raise RecipeError(f"{self.model_type}: tap a stage (layer 1 or more), not the stem")
        sizes, depths = list(config["hidden_sizes"]), list(config["depths"])
        return {**config, "num_stages": tap, "hidden_sizes": sizes[:tap], "depths": depths[:tap]}

    def build(self, config: Config, tap: int) -> PreTrainedModel:
        """The encoder without the norm of its pooled output."""
        encoder = super().build(config, tap)
        encoder.set_submodule("layernorm", nn.Identity())
        return encoder

    def run(self, encoder: PreTrainedModel, pixels: Tensor) -> Tensor:
        """A map (T, D, G, G) becomes rows of the grid."""
        tokens: Tensor = encoder(pixels).last_hidden_state.flatten(2).transpose(1, 2)
        return tokens


@dataclass(frozen=True)
class EfficientNetFamily(StageFamily):
    """EfficientNet: the head map only."""

    def depth(self, config: Config) -> int:
        """One tap, the head map."""
        return 1

    def width(self, config: Config, tap: int) -> int:
        """Channels of the head map."""
        return int(config["hidden_dim"])

    def side(self, config: Config, tap: int, size: int) -> int:
        """Follow the paddings of the strided convolutions."""
        side = (size + 1 - 3) // 2 + 1
        block = 0
        repeats = config["num_block_repeats"]
        for stride, kernel, repeat in zip(
            config["strides"], config["kernel_sizes"], repeats, strict=True
        ):
            if stride == 2:
                half = kernel // 2
                padding = 2 * half - int(block not in config["depthwise_padding"])
                side = (side + padding - kernel) // 2 + 1
            block += math.ceil(config["depth_coefficient"] * repeat)
        return side

    def cut(self, config: Config, tap: int) -> Config:
        """Nothing to cut."""
        if tap != 1:
            raise RecipeError("efficientnet: only the head map (layer -1) can be tapped")
        return config

    def build(self, config: Config, tap: int) -> PreTrainedModel:
        """The whole encoder."""
        return Family.build(self, config, tap)
