"""Run images through a model by themselves, for their keys and values before rotation.

All visual tokens are put at position 0, where a rotation changes nothing. Where the tokens of an
image see each other (image scope ``image``), queries and keys are rotated only after the cache has
taken the keys.

Shape suffixes: T tiles, P tokens of a tile, D width, Hk key heads, V visual tokens, I images.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache

from triptych.attention import ImageEntry, Kind
from triptych.attention.image_cache import check_context_free, split_entries
from triptych.model.key_rotation import KeyRotation
from triptych.model.modeling import TriptychForConditionalGeneration


class ImageKeys:
    """Makes the entries of an image cache for one model with the weights it has now.

    Args:
        model: a model with attention ``mmca``, in evaluation mode.

    Attributes:
        rotation: how its language model rotates keys.

    Raises:
        RecipeError: the images of such a model depend on what stands around them, or its position
            encoding is not known here.
    """

    def __init__(self, model: TriptychForConditionalGeneration) -> None:
        check_context_free(model.attention_rule)
        self._model = model
        self.rotation = KeyRotation(model.language_model, model.attention_rule)

    def entries(
        self, features: Sequence[Tensor], sizes: Sequence[tuple[int, int]]
    ) -> list[ImageEntry]:
        """Run images through the language model.

        Args:
            features: tower features (T, P, D) of each image.
            sizes: width and height of each image in pixels.
        """
        model, device = self._model, self._model.device
        counts = torch.tensor([model.tile_tokens.tokens_of(*size) for size in sizes], device=device)
        total = int(counts.sum())
        ids = torch.full((1, total), model.config.image_token_id, device=device)
        cache = DynamicCache()
        with torch.no_grad():
            model(
                input_ids=ids,
                tile_features=torch.cat(list(features)),
                tiles_per_image=torch.tensor([len(one) for one in features], device=device),
                images_per_sample=torch.tensor([len(features)], device=device),
                image_sizes=torch.tensor(sizes),
                token_kinds=torch.full_like(ids, Kind.IMAGE),
                image_ids=torch.arange(len(counts), device=device).repeat_interleave(counts)[None],
                position_ids=torch.zeros_like(ids),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
                **self._late_rotation(counts),
            )
        keys = [cast(Tensor, layer.keys)[0] for layer in cache.layers]
        values = [cast(Tensor, layer.values)[0] for layer in cache.layers]
        return split_entries(keys, values, counts.tolist())

    def _late_rotation(self, counts: Tensor) -> dict[str, Any]:
        """Where image tokens see each other: the places of the tokens within their image."""
        if self._model.attention_rule.image_scope == "self":
            return {}
        places = [torch.arange(count, device=counts.device) for count in counts.tolist()]
        dtype = self._model.language_model.dtype
        return {"late_rotation": self.rotation.at(torch.cat(places), dtype)}
