"""CrossMemory: keys and values of images, beside those of the tokens that have passed them.

Shape suffixes: B batch, K visual tokens, H heads, D channels of a head.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from triptych.errors import RecipeError

KeysAndValues = tuple[Tensor, Tensor]


class CrossMemory(DynamicCache):
    """What a cache of tokens needs to keep images too; to be put before another kind of cache.

    Whatever happens to its rows and tokens happens to the images: an image leaves with its
    placeholder.

    Attributes:
        places: (B, K), for each visual token the place of its image's placeholder in the sequence,
            -1 for padding; None before the first image.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.places: Tensor | None = None
        self._visual: dict[int, KeysAndValues] = {}

    def extend_places(self, new: Tensor | None) -> Tensor | None:
        """Append the places (B, K) of new visual tokens; return those of all."""
        if new is not None:
            self.places = new if self.places is None else torch.cat([self.places, new], 1)
        return self.places

    def extend_visual(self, layer: int, new: KeysAndValues | None) -> KeysAndValues:
        """Append keys and values (B, H, K, D) of a layer; return those of all.

        Raises:
            RecipeError: there are none of this layer yet and none are given.
        """
        old = self._visual.get(layer)
        if old is not None and new is not None:
            self._visual[layer] = torch.cat([old[0], new[0]], 2), torch.cat([old[1], new[1]], 2)
        elif new is not None:
            self._visual[layer] = new
        elif old is None:
            raise RecipeError(f"the cache has no visual keys of layer {layer}: another model's")
        return self._visual[layer]

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last tokens, and the images whose placeholders are among them."""
        super().crop(tokens_to_remove)
        if self.places is not None:
            self.places = self.places.masked_fill(self.places >= self.get_seq_length(), -1)
            kept = (self.places >= 0).any(0).nonzero().flatten()
            self.places = self.places[:, kept]
            self._visual = {
                k: (v[0][:, :, kept], v[1][:, :, kept]) for k, v in self._visual.items()
            }

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows alone, in this order."""
        super().batch_select_indices(indices)
        self._take_rows(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row."""
        super().batch_repeat_interleave(repeats)
        if self.places is not None:
            rows = torch.arange(len(self.places), device=self.places.device)
            self._take_rows(rows.repeat_interleave(repeats))

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Reorder the rows for beam search."""
        super().reorder_cache(beam_idx)
        self._take_rows(beam_idx)

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.places, self._visual = None, {}

    def _take_rows(self, rows: Tensor) -> None:
        if self.places is not None:
            self.places = self.places[rows.to(self.places.device)]
            self._visual = {
                layer: (keys[rows.to(keys.device)], values[rows.to(values.device)])
                for layer, (keys, values) in self._visual.items()
            }
