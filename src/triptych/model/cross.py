"""What a model with cross fusion adds to its language model's arguments.

Shape suffixes: B batch, S sequence, I images, V visual tokens of the batch, N visual tokens of a
sample, D width.
"""

from typing import Any, NoReturn, TypeAlias

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel

from triptych.errors import RecipeError, SpanError
from triptych.fusion import CrossFusion
from triptych.fusion.cross import CrossInputs, SequenceMasks, find_visible
from triptych.fusion.cross_cache import CrossMemory
from triptych.fusion.injection import ARGUMENT, check_reached, inject
from triptych.language.layers import decoder_layers

Visual: TypeAlias = tuple[Tensor, Tensor]
"""Visual tokens (B, N, D) and the places (B, N) of their images; see ``arrange``."""


class CrossArguments:
    """Puts gated layers before the decoder layers and prepares what they need.

    Args:
        fusion: which layers, and what they see.
        language_model: the language model, whose decoder layers get their hooks here.

    Attributes:
        layers: the gated layers; the model owns them.
    """

    def __init__(self, fusion: CrossFusion, language_model: PreTrainedModel) -> None:
        text = language_model.config
        self.fusion = fusion
        self._language_model = language_model
        self.layers: nn.ModuleDict = fusion.build(text.hidden_size, text.num_hidden_layers)
        inject(decoder_layers(language_model), self.layers)

    def choose_cache(self, given: Cache | None, use_cache: bool | None) -> Cache | None:
        """The cache given, or a new one where the language model would make its own."""
        model = self._language_model
        if given is not None or (model.training and model.is_gradient_checkpointing):
            return given
        wanted = model.config.to_dict().get("use_cache", True) if use_cache is None else use_cache
        return CrossMemory(config=model.config) if wanted else None

    def replace_cache(self, arguments: dict[str, Any], implementation: str | None) -> None:
        """Put a cache that keeps images in the place of the one that ``generate`` has made.

        Raises:
            RecipeError: ``generate`` was asked for another kind of cache.
        """
        if implementation not in (None, "dynamic"):
            raise RecipeError(
                f"fusion 'cross' keeps images in a growing cache; generate() was asked for the "
                f"cache_implementation '{implementation}', leave it out"
            )
        arguments["past_key_values"] = CrossMemory(config=self._language_model.config)

    def prepare(
        self,
        visual: Visual | None,
        masks: SequenceMasks,
        cache: Cache | None,
    ) -> dict[str, Any]:
        """The argument that carries visual tokens to the gated layers; none where no image is.

        Args:
            visual: what this pass brings, from ``arrange``.
            masks: what divides the sequence.
            cache: of earlier tokens.

        Raises:
            RecipeError: there are images, but the cache cannot keep them.
        """
        own = cache if isinstance(cache, CrossMemory) else None
        if visual is not None and cache is not None and own is None:
            raise RecipeError(
                f"fusion 'cross' keeps the keys of images in a cache of its own, found "
                f"{type(cache).__name__}; use model.make_cache(), or leave the cache to generate()"
            )
        tokens, places = (None, None) if visual is None else visual
        first = cached_tokens(cache)
        if own is not None:
            places = own.extend_places(places)
        if places is None:
            return {}
        visible, sees = find_visible(places, first, masks, self.fusion.images)
        return {ARGUMENT: CrossInputs(tokens, visible, sees, own)}

    def check(self, arguments: dict[str, Any]) -> None:
        """Make sure after a pass that every gated layer has run, where there were images.

        Raises:
            RecipeError: the language model did not pass the argument on.
        """
        if ARGUMENT in arguments:
            family = str(self._language_model.config.model_type)
            check_reached(arguments[ARGUMENT], self.layers, family)


def arrange(visual: Tensor, per_image: list[int], placeholders: Tensor, first: int) -> Visual:
    """Sort the visual tokens of a batch by sample.

    Args:
        visual: (V, D), in order of appearance.
        per_image: visual tokens of each image; sums to V.
        placeholders: bool (B, S), one True per image.
        first: place of the first token of this pass in the sequence.

    Returns:
        Visual tokens (B, N, D), filled up with zeros, and the places (B, N) of their images'
        placeholders in the sequence, filled up with -1.
    """
    samples, columns = placeholders.nonzero(as_tuple=True)
    counts = torch.tensor(per_image, device=visual.device)
    rows = samples.repeat_interleave(counts)
    per_sample = torch.bincount(rows, minlength=len(placeholders))
    begins = per_sample.cumsum(0) - per_sample
    slots = torch.arange(len(visual), device=visual.device) - begins[rows]
    shape = (len(placeholders), int(per_sample.max()))
    tokens = visual.new_zeros(*shape, visual.shape[-1]).index_put((rows, slots), visual)
    places = torch.full(shape, -1, device=visual.device)
    places[rows, slots] = (columns + first).repeat_interleave(counts)
    return tokens, places


def hide(visual: Tensor, batch: int) -> Visual:
    """Visual tokens (V, D) for every sample of a batch, seen by none; see ``arrange``."""
    tokens = visual.expand(batch, *visual.shape)
    return tokens, torch.full(tokens.shape[:2], -1, device=visual.device)


def cached_tokens(cache: Cache | None) -> int:
    """Number of tokens of a sequence that a cache holds."""
    return 0 if cache is None else int(cache.get_seq_length())


def refuse_embeddings() -> NoReturn:
    """Refuse images that come with embeddings.

    Raises:
        SpanError: always.
    """
    raise SpanError(
        "fusion 'cross' finds the places of images among input_ids; give input_ids, not "
        "inputs_embeds, where there are images"
    )
