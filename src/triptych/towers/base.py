"""The protocol of a vision tower, and of the spec that builds one.

Shape suffixes: T tiles, P tokens of a tile, Q tokens of a tile inside the tower (all that its
blocks see), D width, S side of a tile in pixels.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from triptych.images.layout import TileLayout
from triptych.spec import Spec


class Tower(nn.Module, ABC):
    """Turns tiles into tokens. A tower owns its resolution and its normalisation.

    Attributes:
        size: side in pixels of the tiles that ``encode`` takes.
        width: channels of a token.
        layout: tokens of one tile.
        mean, std: normalisation in the 0..1 range, one number per RGB channel.
        identity: canonical text of the architecture, part of the fingerprint.
        convolutional: leaves autocast on a CPU, where bf16 convolutions without AVX-512 are more
            than ten times slower than fp32.
    """

    size: int
    width: int
    layout: TileLayout
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    identity: str
    convolutional: bool = False

    @abstractmethod
    def encode(self, pixels: Tensor) -> Tensor:
        """Encode normalised pixels (T, 3, size, size) into tokens (T, P, D)."""

    def forward(self, tiles: Tensor) -> Tensor:
        """Encode tiles.

        Args:
            tiles: (T, 3, S, S), uint8 in 0..255; resized here where S is not this tower's size.

        Returns:
            Tokens (T, P, D) in the dtype of the tower's parameters.
        """
        normalised = self.normalise(tiles)
        if self.convolutional and tiles.device.type == "cpu":
            with torch.autocast("cpu", enabled=False):
                return self.encode(normalised)
        return self.encode(normalised)

    def normalise(self, tiles: Tensor) -> Tensor:
        """Bring uint8 tiles (T, 3, S, S) to what ``encode`` takes."""
        dtype = next(self.parameters()).dtype
        pixels = tiles.to(torch.float32) / 255
        if pixels.shape[-1] != self.size:
            pixels = F.interpolate(
                pixels, (self.size, self.size), mode="bicubic", antialias=True, align_corners=False
            ).clamp(0, 1)
        mean = torch.tensor(self.mean, device=tiles.device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=tiles.device).view(1, 3, 1, 1)
        return ((pixels - mean) / std).to(dtype)

    def train(self, mode: bool = True) -> Self:
        """Switch modes. A frozen tower stays in evaluation, and so does every batch norm.

        Batches of tiles are small and mix datasets, so running statistics are never updated.
        """
        super().train(mode and any(parameter.requires_grad for parameter in self.parameters()))
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


class Part(Protocol):
    """A part of a pass through a tower of blocks, see ``passes``."""

    def run(self, tower: "BlockTower", given: Tensor) -> Tensor:
        """Run it on what enters."""


class BlockTower(Tower):
    """A tower of equal transformer blocks, which can be run one by one.

    Attributes:
        depth: number of blocks.
        prefix: tokens before the grid inside the tower: CLS, then registers.
    """

    depth: int
    prefix: int = 0

    def forward(self, tiles: Tensor, part: Part | None = None) -> Tensor:
        """Encode tiles, or run a part of that.

        Args:
            tiles: uint8 (T, 3, S, S), or what ``part`` begins with.
            part: default: the whole pass.

        Returns:
            Tokens (T, P, D), or what ``part`` gives.
        """
        return super().forward(tiles) if part is None else part.run(self, tiles)

    @abstractmethod
    def embed(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (T, 3, size, size) to what enters block 0 (T, Q, D)."""

    @abstractmethod
    def walk(self, states: Tensor, first: int, stop: int) -> Iterator[Tensor]:
        """States (T, Q, D) behind each of the blocks from ``first`` to before ``stop``."""

    @abstractmethod
    def finish(self, states: Tensor) -> Tensor:
        """What leaves the last block (T, Q, D) to tokens (T, P, D), through the last norm."""

    @abstractmethod
    def pick(self, states: Tensor) -> Tensor:
        """States (T, Q, D) without the tokens that are not in the layout: (T, P, D)."""

    def run(self, states: Tensor, first: int, stop: int) -> Tensor:
        """Run the blocks from ``first`` to before ``stop``: (T, Q, D) in and out."""
        for after in self.walk(states, first, stop):
            states = after
        return states

    def enter(self, tiles: Tensor, stop: int) -> Tensor:
        """Run uint8 tiles (T, 3, S, S) up to before block ``stop``: (T, Q, D)."""
        return self.run(self.embed(self.normalise(tiles)), 0, stop)

    def leave(self, states: Tensor, first: int) -> Tensor:
        """Run what enters block ``first`` (T, Q, D) to the end: tokens (T, P, D)."""
        return self.finish(self.run(states, first, self.depth))

    def levels(self, tiles: Tensor, blocks: Sequence[int]) -> Tensor:
        """Encode tiles, and tap what some blocks give.

        Args:
            tiles: uint8 (T, 3, S, S).
            blocks: numbers of the tapped blocks, from 0, below ``depth``.

        Returns:
            (T, P, D * (1 + taps)): the tokens of ``forward``, then the output of each tapped block
            with no norm behind it.
        """
        states = self.embed(self.normalise(tiles))
        tapped = {}
        for number, after in enumerate(self.walk(states, 0, self.depth)):
            states = after
            if number in blocks:
                tapped[number] = self.pick(states)
        return torch.cat([self.finish(states), *(tapped[number] for number in blocks)], dim=-1)


class TowerSpecBase(Spec, ABC):
    """What every tower spec offers.

    ``resolve`` is called once, where the source can be read; from then on the spec stands on its
    own: sizes come from it without a module, and ``build`` reads nothing.
    """

    @abstractmethod
    def resolve(self) -> Self:
        """The same spec with everything read from its source filled in; no weights are read.

        Raises:
            RecipeError: when the source cannot be read or names an unknown family.
        """

    def complete(self) -> Self:
        """The spec with what can be filled in without its source."""
        return self

    @property
    def is_known(self) -> bool:
        """Whether the architecture is known without the source."""
        return True

    @property
    def label(self) -> str:
        """What to call the tower in a message."""
        return f"the tower '{self.model_dump()['kind']}'"

    @abstractmethod
    def build(self) -> Tower:
        """A tower with random weights; safe under ``torch.device("meta")``."""

    @abstractmethod
    def load(self, tower: Tower) -> None:
        """Copy the pretrained weights of the source, if there is one, into ``tower`` in place.

        Raises:
            CheckpointError: when weights that the tower needs are not in the source.
        """

    def identity(self, *without: str) -> str:
        """The spec as text that does not depend on the order of keys, less some fields."""
        values = self.model_dump(mode="json", exclude=set(without))
        return json.dumps(values, sort_keys=True)

    @property
    @abstractmethod
    def layout(self) -> TileLayout:
        """Tokens of one tile."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Channels of a token."""

    @property
    def inner_tokens(self) -> int:
        """Tokens of a tile inside the tower."""
        return self.layout.tokens

    @property
    def enterable(self) -> int | None:
        """Transformer blocks between which states can be changed; None where there are none."""
        return None

    @property
    def tappable(self) -> int | None:
        """Transformer blocks whose output can be tapped; None where there are none."""
        return self.enterable

    @property
    @abstractmethod
    def tile_size(self) -> int:
        """Side in pixels of the tiles that the tower takes."""
