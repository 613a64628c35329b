"""Vision transformers: equal blocks one after the other, which can be run apart.

Shape suffixes: T tiles, P tokens of a tile, Q tokens inside the encoder (CLS and registers too),
D width, S side of a tile.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from triptych.towers.family import Config, Family, square


@dataclass(frozen=True)
class PatchFamily(Family):
    """Vision transformers.

    Attributes:
        norm: name of the last norm, which hidden states do not pass in LLaVA's convention.
        cls: whether there is a CLS token.
        resize_flag: whether other sizes need ``interpolate_pos_encoding``.
        entry: names of the modules before the first block.
        blocks: name of the list of blocks.
        enters: whether states can be changed between two blocks. DINOv3 draws its positions anew
            for every pass in training, so that its passes cannot be cut in two.
    """

    norm: str = "layernorm"
    cls: bool = True
    resize_flag: bool = False
    entry: tuple[str, ...] = ("embeddings",)
    blocks: str = "encoder.layers"
    enters: bool = True

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
        tokens: Tensor = encoder(pixels, **self._resizing(encoder, pixels)).last_hidden_state
        return tokens

    def embed(self, encoder: PreTrainedModel, pixels: Tensor) -> Tensor:
        """Pixels (T, 3, S, S) to what enters the first block (T, Q, D)."""
        first, *others = [encoder.get_submodule(name) for name in self.entry]
        states = first(pixels, **self._resizing(encoder, pixels))
        for module in others:
            states = module(states)
        return cast(Tensor, states)

    def walk(
        self, encoder: PreTrainedModel, states: Tensor, size: int, first: int, stop: int
    ) -> Iterator[Tensor]:
        """States (T, Q, D) behind each of the blocks from ``first`` to before ``stop``.

        Args:
            encoder: with all these blocks.
            states: what enters block ``first``.
            size: side of a tile in pixels.
            first: number of a block, from 0.
            stop: number of the block that does not run any more.
        """
        arguments = self.arguments(encoder, states, size)
        for block in list(cast(nn.ModuleList, encoder.get_submodule(self.blocks)))[first:stop]:
            states = block(states, **arguments)
            yield states

    def arguments(self, encoder: PreTrainedModel, states: Tensor, size: int) -> dict[str, Any]:
        """What a block is given besides the states."""
        return {"attention_mask": None}

    def _resizing(self, encoder: PreTrainedModel, pixels: Tensor) -> dict[str, bool]:
        if not self.resize_flag:
            return {}
        resized = pixels.shape[-1] != square(encoder.config.image_size, "image_size")
        return {"interpolate_pos_encoding": resized}


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
        patches, shapes = self._cut(encoder, pixels)
        mask = torch.ones(patches.shape[:2], dtype=torch.long, device=pixels.device)
        tokens: Tensor = encoder(patches, mask, shapes).last_hidden_state
        return tokens

    def embed(self, encoder: PreTrainedModel, pixels: Tensor) -> Tensor:
        """Pixels (T, 3, S, S) to what enters the first block (T, Q, D)."""
        return cast(Tensor, encoder.get_submodule("embeddings")(*self._cut(encoder, pixels)))

    def _cut(self, encoder: PreTrainedModel, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Patches (T, P, channels) and the rows and columns of each tile (T, 2)."""
        patch = square(encoder.config.patch_size, "patch_size")
        cut = cut_patches(pixels, patch).permute(0, 1, 2, 4, 5, 3)
        tiles, grid = cut.shape[:2]
        shapes = torch.full((tiles, 2), grid, dtype=torch.long)
        return cut.reshape(tiles, grid * grid, -1), shapes


@dataclass(frozen=True)
class DinoFamily(PatchFamily):
    """DINOv2, whose blocks take states alone."""

    blocks: str = "encoder.layer"

    def arguments(self, encoder: PreTrainedModel, states: Tensor, size: int) -> dict[str, Any]:
        """Nothing."""
        return {}


@dataclass(frozen=True)
class RotatingFamily(PatchFamily):
    """DINOv3, whose blocks rotate queries and keys by their place in the tile."""

    norm: str = "norm"
    blocks: str = "model.layer"
    enters: bool = False

    def arguments(self, encoder: PreTrainedModel, states: Tensor, size: int) -> dict[str, Any]:
        """Cosines and sines of the places."""
        shaped = states.new_empty(1, 3, size, size)
        return {"position_embeddings": encoder.get_submodule("rope_embeddings")(shaped)}


def cut_patches(pixels: Tensor, patch: int) -> Tensor:
    """Cut (T, 3, S, S) into whole patches (T, rows, columns, 3, ``patch``, ``patch``)."""
    tiles, grid = pixels.shape[0], pixels.shape[-1] // patch
    whole = pixels[..., : grid * patch, : grid * patch]
    return whole.reshape(tiles, 3, grid, patch, grid, patch).permute(0, 2, 4, 1, 3, 5)


def _freeze_mask_token(module: nn.Module) -> None:
    """Make the mask token, which only pretraining uses, a buffer: it would get no gradient."""
    token = dict(module.named_parameters(recurse=False)).get("mask_token")
    if token is not None:
        del module.mask_token
        module.register_buffer("mask_token", token.detach())
