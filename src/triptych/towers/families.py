"""What triptych has to know about each family of vision encoders in transformers.

A family says, from the config alone, how many tokens a tile gives and how wide they are; and it
builds the encoder cut off behind the tapped layer, so that nothing is computed, stored or trained
that does not reach the language model.

Shape suffixes: T tiles, P tokens of a tile, D width, S side of a tile, G side of a grid.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel

from triptych.errors import RecipeError

Config: TypeAlias = Mapping[str, Any]
Triple: TypeAlias = tuple[float, float, float]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Family(ABC):
    """One ``model_type`` of transformers.

    Attributes:
        model_type: as in the config of the vision part.
        mean, std: normalisation used where the source has no preprocessor_config.json.
        pinned: config values that leave out parts whose output is not used.
    """

    model_type: str
    mean: Triple
    std: Triple
    pinned: Config = field(default_factory=dict)

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


@dataclass(frozen=True)
class PatchFamily(Family):
    """Vision transformers.

    Attributes:
        norm: name of the last norm, which hidden states do not pass in LLaVA's convention.
        cls: whether there is a CLS token.
        resize_flag: whether other sizes need ``interpolate_pos_encoding``.
    """

    norm: str = "layernorm"
    cls: bool = True
    resize_flag: bool = False

    def depth(self, config: Config) -> int:
        """Number of transformer blocks."""
        return int(config["num_hidden_layers"])

    def width(self, config: Config, tap: int) -> int:
        """Hidden size, the same at every tap."""
        return int(config["hidden_size"])

    def side(self, config: Config, tap: int, size: int) -> int:
        """Whole patches along a side; what is left over is not seen by the encoder."""
        return size // square(config["patch_size"], "patch_size")

    @property
    def has_cls(self) -> bool:
        """Whether the first token is a CLS."""
        return self.cls

    @property
    def last_norm(self) -> str:
        """Name of the LayerNorm behind the last block."""
        return self.norm

    def prefix(self, config: Config) -> int:
        """CLS and registers."""
        return int(self.cls) + int(config.get("num_register_tokens", 0))

    def cut(self, config: Config, tap: int) -> Config:
        """Fewer blocks."""
        return {**config, "num_hidden_layers": tap}

    def build(self, config: Config, tap: int) -> PreTrainedModel:
        """The encoder without its last norm, pooler and mask token."""
        encoder = super().build(config, tap)
        encoder.set_submodule(self.norm, nn.Identity())
        for module in encoder.modules():
            _freeze_mask_token(module)
        return encoder

    def run(self, encoder: PreTrainedModel, pixels: Tensor) -> Tensor:
        """Without the last norm, the last hidden state is the tapped one."""
        if self.resize_flag:
            resized = pixels.shape[-1] != square(encoder.config.image_size, "image_size")
            output = encoder(pixels, interpolate_pos_encoding=resized)
        else:
            output = encoder(pixels)
        tokens: Tensor = output.last_hidden_state
        return tokens


@dataclass(frozen=True)
class ViTFamily(PatchFamily):
    """ViT, whose pooler is left out by an argument."""

    def build(self, config: Config, tap: int) -> PreTrainedModel:
        """The encoder without its pooler and last norm."""
        encoder = super().build(config, tap)
        encoder.set_submodule("pooler", nn.Identity())
        return encoder


@dataclass(frozen=True)
class PatchInputFamily(PatchFamily):
    """SigLIP2 (NaFlex), which takes patches and the shape of their grid."""

    def default_size(self, config: Config) -> int:
        """The square that fills the learned positions."""
        patches = int(config["num_patches"])
        return int(patches**0.5) * square(config["patch_size"], "patch_size")

    def run(self, encoder: PreTrainedModel, pixels: Tensor) -> Tensor:
        """Cut the tile into patches; each is flattened row, column, channel."""
        patch = square(encoder.config.patch_size, "patch_size")
        tiles, grid = pixels.shape[0], pixels.shape[-1] // patch
        whole = pixels[..., : grid * patch, : grid * patch]
        cut = whole.reshape(tiles, 3, grid, patch, grid, patch)
        patches = cut.permute(0, 2, 4, 3, 5, 1).reshape(tiles, grid * grid, -1)
        shapes = torch.full((tiles, 2), grid, dtype=torch.long)
        mask = torch.ones(patches.shape[:2], dtype=torch.long, device=pixels.device)
        tokens: Tensor = encoder(patches, mask, shapes).last_hidden_state
        return tokens


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


def _freeze_mask_token(module: nn.Module) -> None:
    """Make the mask token, which only pretraining uses, a buffer: it would get no gradient."""
    token = dict(module.named_parameters(recurse=False)).get("mask_token")
    if token is not None:
        del module.mask_token
        module.register_buffer("mask_token", token.detach())


_FAMILIES = (
    PatchFamily("clip_vision_model", CLIP_MEAN, CLIP_STD, norm="post_layernorm", resize_flag=True),
    PatchFamily(
        "siglip_vision_model",
        HALF,
        HALF,
        {"vision_use_head": False},
        norm="post_layernorm",
        cls=False,
        resize_flag=True,
    ),
    PatchInputFamily(
        "siglip2_vision_model",
        HALF,
        HALF,
        {"vision_use_head": False},
        norm="post_layernorm",
        cls=False,
    ),
    PatchFamily("dinov2", IMAGENET_MEAN, IMAGENET_STD, {"use_mask_token": False}),
    PatchFamily("dinov2_with_registers", IMAGENET_MEAN, IMAGENET_STD),
    PatchFamily("dinov3_vit", IMAGENET_MEAN, IMAGENET_STD, norm="norm"),
    ViTFamily("vit", HALF, HALF, resize_flag=True),
    StageFamily("convnext", IMAGENET_MEAN, IMAGENET_STD),
    StageFamily("convnextv2", IMAGENET_MEAN, IMAGENET_STD),
    EfficientNetFamily("efficientnet", IMAGENET_MEAN, IMAGENET_STD),
)

FAMILIES: dict[str, Family] = {family.model_type: family for family in _FAMILIES}


def family_of(config: Config, where: str) -> Family:
    """The family of a vision config.

    Raises:
        RecipeError: when ``model_type`` is missing or not one of the table.
    """
    found = config.get("model_type")
    if found not in FAMILIES:
        raise RecipeError(
            f"{where}: model_type is {found!r}; known vision families: {', '.join(FAMILIES)}"
        )
    return FAMILIES[found]
