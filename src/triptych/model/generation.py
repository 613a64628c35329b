"""What ``generate`` of transformers needs to know of images and attention rules."""

from typing import Any

from torch import Tensor
from transformers import GenerationConfig, GenerationMixin
from transformers.utils import ModelOutput

from triptych.model.attention import RuleArguments, grow_tokens
from triptych.model.cross import CrossArguments
from triptych.model.vision import IMAGE_INPUTS, repeat_images


class ImageGenerationMixin(GenerationMixin):
    """Generation with images, token kinds and the cache that the model's fusion needs."""

    _attention: RuleArguments
    _cross: CrossArguments | None

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        is_first_iteration: bool | None = False,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Pass images on at the first step only: later steps find them in the cache."""
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(
            input_ids, is_first_iteration=is_first_iteration, inputs_embeds=inputs_embeds, **kwargs
        )
        if not is_first_iteration and kwargs.get("use_cache", True):
            for name in (*IMAGE_INPUTS, "stacks"):
                inputs.pop(name, None)
        if self._attention.implementation is not None and inputs.get("token_kinds") is None:
            inputs["token_kinds"] = self.find_token_kinds(input_ids, kwargs.get("attention_mask"))
        return inputs

    def _prepare_cache_for_generation(
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *args: Any
    ) -> None:
        given = model_kwargs.get("past_key_values")
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *args)
        if self._cross is not None and given is None and "past_key_values" in model_kwargs:
            self._cross.replace_cache(model_kwargs, generation_config.cache_implementation)

    def _update_model_kwargs_for_generation(
        self,
        outputs: ModelOutput,
        model_kwargs: dict[str, Any],
        is_encoder_decoder: bool = False,
        num_new_tokens: int = 1,
    ) -> dict[str, Any]:
        """Let what is known of the tokens grow with the generated ones."""
        grown: dict[str, Any] = super()._update_model_kwargs_for_generation(
            outputs, model_kwargs, is_encoder_decoder, num_new_tokens
        )
        return grow_tokens(grown, num_new_tokens)

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor | None, dict[str, Any]]:
        """Repeat each sample with all its images, for beams and several answers."""
        images = {name: kwargs.pop(name, None) for name in IMAGE_INPUTS}
        rows = 1 if input_ids is None else len(input_ids)
        expanded, kwargs = super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **kwargs
        )
        return expanded, kwargs | repeat_images(images, rows, expand_size)
