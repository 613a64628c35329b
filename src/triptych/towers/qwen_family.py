"""The vision encoder of Qwen3-VL, which takes the patches of all tiles as one row.

Shape suffixes: T tiles, P tokens of a tile, D width.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.vision_utils import (
    get_vision_attention_seqlens,
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
)

from triptych.towers.family import Config, square
from triptych.towers.patch_families import PatchFamily, cut_patches


@dataclass(frozen=True)
class QwenFamily(PatchFamily):
    """Qwen3-VL's encoder without its mergers, which are a connector's and the fusion's work.

    Its patches stand row by row here. Theirs stand block by block, in the order in which their
    mergers take them.
    """

    def depth(self, config: Config) -> int:
        """Number of transformer blocks."""
        return int(config["depth"])

    def cut(self, config: Config, tap: int) -> Config:
        """Fewer blocks."""
        return {**config, "depth": tap}

    def default_size(self, config: Config) -> int:
        """The square that fills the learned positions."""
        side = int(int(config["num_position_embeddings"]) ** 0.5)
        return side * square(config["patch_size"], "patch_size")

    def build(self, config: Config, tap: int) -> PreTrainedModel:
        """The encoder without its mergers."""
        plain = {"deepstack_visual_indexes": [], "spatial_merge_size": 1}
        values = {**self.cut(config, tap), **plain}
        encoder: PreTrainedModel = AutoModel.from_config(AutoConfig.for_model(**values))
        encoder.set_submodule("merger", nn.Identity())
        return encoder

    def run(self, encoder: PreTrainedModel, pixels: Tensor) -> Tensor:
        """Tokens (T, P, D) of all tiles; an image is a film of equal frames to this encoder."""
        output = encoder(self._cut(encoder, pixels), _grids(encoder, pixels))
        return cast(Tensor, output.last_hidden_state.unflatten(0, (len(pixels), -1)))

    def embed(self, encoder: PreTrainedModel, pixels: Tensor) -> Tensor:
        """Pixels (T, 3, S, S) to what enters the first block (T, P, D)."""
        table = cast(nn.Embedding, encoder.get_submodule("pos_embed"))
        places, weights = get_vision_interpolation_indices_and_weights(
            _grids(encoder, pixels),
            num_grid_per_side=int(table.num_embeddings**0.5),
            align_corners=True,
        )
        states = encoder.get_submodule("patch_embed")(self._cut(encoder, pixels))
        states = states + (table(places) * weights[:, :, None]).sum(1).to(states.dtype)
        return cast(Tensor, states.unflatten(0, (len(pixels), -1)))

    def walk(
        self, encoder: PreTrainedModel, states: Tensor, size: int, first: int, stop: int
    ) -> Iterator[Tensor]:
        """States (T, P, D) behind each of the blocks from ``first`` to before ``stop``."""
        for row in super().walk(encoder, states.flatten(0, 1), size, first, stop):
            yield row.unflatten(0, (len(states), -1))

    def arguments(self, encoder: PreTrainedModel, states: Tensor, size: int) -> dict[str, Any]:
        """Where each tile begins in the row, and the rotation of each place."""
        patch = square(encoder.config.patch_size, "patch_size")
        tiles = len(states) // (size // patch) ** 2
        grids = _grids(encoder, states.new_empty(tiles, 0, size, size))
        begins, longest = get_vision_attention_seqlens(grids, encoder.config)
        rotate = encoder.get_submodule("rotary_pos_emb")
        return {
            "cu_seqlens": begins,
            "max_seqlen": longest,
            "position_embeddings": rotate(states, get_vision_position_ids(grids, 1)),
        }

    def _cut(self, encoder: PreTrainedModel, pixels: Tensor) -> Tensor:
        """Patches (T * P, channels * frames * patch * patch)."""
        patches = cut_patches(pixels, square(encoder.config.patch_size, "patch_size"))
        frames = square(encoder.config.temporal_patch_size, "temporal_patch_size")
        film = patches.unsqueeze(4).expand(*patches.shape[:4], frames, *patches.shape[4:])
        return film.flatten(0, 2).flatten(1)


def _grids(encoder: PreTrainedModel, pixels: Tensor) -> Tensor:
    """Frames, rows and columns of patches of each tile (T, 3)."""
    side = pixels.shape[-1] // square(encoder.config.patch_size, "patch_size")
    return torch.tensor([[1, side, side]], device=pixels.device).expand(len(pixels), 3)
