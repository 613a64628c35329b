"""What triptych has to know about a family of vision encoders in transformers.

A family says, from the config alone, how many tokens a tile gives and how wide they are; and it
builds the encoder cut off behind the tapped layer, so that nothing is computed, stored or trained
that does not reach the language model.

Shape suffixes: T tiles, P tokens of a tile, D width, S side of a tile.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import Tensor
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel

from triptych.errors import RecipeError

Config: TypeAlias = Mapping[str, Any]
Triple: TypeAlias = tuple[float, float, float]


@dataclass(frozen=True)
class Family(ABC):
    """One ``model_type`` of transformers.

    Attributes:
        model_type: as in the config of the vision part.
        mean, std: normalisation used where the source has no preprocessor_config.json.
        pinned: config values that leave out parts whose output is not used.
        renamed: patterns of names in checkpoints of whole models, where transformers does not
            find its vision part by itself, and what they are there.
    """

    model_type: str
    mean: Triple
    std: Triple
    pinned: Config = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)

    @abstractmethod
    def depth(self, config: Config) -> int:
        """Number of layers; there is one hidden state more."""

    @abstractmethod
    def width(self, config: Config, tap: int) -> int:
        """Channels behind ``tap`` layers."""

    @abstractmethod
    def side(self, config: Config, tap: int, size: int) -> int:
        """Rows, and columns, of the grid of a tile of ``size`` pixels."""

    @abstractmethod
    def cut(self, config: Config, tap: int) -> Config:
        """The config of the same encoder with ``tap`` layers."""

    @abstractmethod
    def run(self, encoder: PreTrainedModel, pixels: Tensor) -> Tensor:
        """Pixels (T, 3, S, S) to tokens (T, P, D), prefix tokens first."""

    def prefix(self, config: Config) -> int:
        """Tokens before the grid: CLS first, then registers."""
        return 0

    @property
    def has_cls(self) -> bool:
        """Whether the first token is a CLS."""
        return False

    @property
    def convolutional(self) -> bool:
        """Whether most of the work is convolutions."""
        return False

    @property
    def last_norm(self) -> str:
        """Name of the LayerNorm behind the last layer, where the config has a layer_norm_eps."""
        return "layernorm"

    def default_size(self, config: Config) -> int:
        """Side in pixels that the encoder was made for."""
        return square(config["image_size"], "image_size")

    def full_config(self, config: Config) -> PretrainedConfig:
        """The config object of the whole encoder, to load pretrained weights with."""
        loaded: PretrainedConfig = AutoConfig.for_model(**{**config, **self.pinned})
        return loaded

    def build(self, config: Config, tap: int) -> PreTrainedModel:
        """The encoder with ``tap`` layers and random weights."""
        values = {**self.cut(config, tap), **self.pinned}
        encoder: PreTrainedModel = AutoModel.from_config(AutoConfig.for_model(**values))
        return encoder


def square(value: object, name: str) -> int:
    """The side of a square that transformers writes as a number or as a pair.

    Raises:
        RecipeError: when it is not square.
    """
    if isinstance(value, int):
        return value
    if isinstance(value, (list, tuple)) and len(set(value)) == 1 and isinstance(value[0], int):
        return value[0]
    raise RecipeError(f"{name} is {value!r}; towers take square tiles, given as one number")
