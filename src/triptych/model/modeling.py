"""TriptychForConditionalGeneration: towers, connector and language model, composed.

Shape suffixes: B batch, S sequence, I images, T tiles, P tokens of a tile, V visual tokens,
N supervised tokens, D width, K vocabulary.
"""

from typing import Any, Literal, cast

from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Cache, PreTrainedModel

from triptych.attention import Rule
from triptych.fusion import ChannelFusion, CrossFusion, DeepStackFusion
from triptych.fusion.cross import SequenceMasks
from triptych.language.head import VocabularyHead, cross_entropy, supervised
from triptych.model.attention import (
    RuleArguments,
    TokenInputs,
    begins,
    count_positions,
    find_kinds,
)
from triptych.model.channels import ChannelGroups
from triptych.model.configuration import Panels, TriptychConfig
from triptych.model.cross import CrossArguments, cached_tokens
from triptych.model.deepstack import StackArguments, check_given
from triptych.model.generation import ImageGenerationMixin
from triptych.model.inside import TowerGroups
from triptych.model.new_tokens import NewTokens
from triptych.model.output import TriptychOutput
from triptych.model.seeing import SeeingMixin
from triptych.model.stacks import make_producer
from triptych.model.tiles import TileTokens
from triptych.model.vision import Images
from triptych.towers import Enter, Tap


class TriptychForConditionalGeneration(SeeingMixin, PreTrainedModel, ImageGenerationMixin):
    """A large multimodal model: visual tokens at image spans of any causal language model.

    Args:
        config: the architecture.
        language_model: a causal language model with its weights; default: built from the config.
    """

    config_class = TriptychConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(
        self, config: TriptychConfig, language_model: PreTrainedModel | None = None
    ) -> None:
        super().__init__(config)
        panels = config.parse_panels()
        text = config.get_text_config()
        self.towers = nn.ModuleList(tower.build() for tower in panels.towers)
        self.tower_layout, self.tower_width = panels.tower_layout, panels.tower_width
        self.layout, self.tile_size = panels.layout, panels.tile_size
        self.tiles_at_once: int | None = None
        self._every_part: Literal["tiles", "features"] | None = None
        self.connected_width, self.feature_shape = panels.connected_width, panels.feature_shape
        self.connector = panels.connector.build(
            panels.tower_layout, panels.connected_width, text.hidden_size
        )
        self.tile_tokens = TileTokens(panels, text.hidden_size, 0.02)
        self.new_tokens = (
            NewTokens(config.first_new_token_id, config.new_tokens, text.hidden_size, 0.02)
            if config.new_tokens
            else None
        )
        self._attention = RuleArguments(config.attention, config.image_scope)
        implementation = self._attention.implementation
        if language_model is None:
            language_model = AutoModelForCausalLM.from_config(
                text, attn_implementation=implementation
            )
        elif implementation is not None:
            language_model.set_attn_implementation(implementation)
        self._attention.check(language_model)
        self.language_model = language_model
        self._set_fusion(panels, language_model)
        self._head = VocabularyHead(text.to_dict())
        self.post_init()

    def _set_fusion(self, panels: Panels, language_model: PreTrainedModel) -> None:
        fusion, width = panels.fusion, language_model.config.hidden_size
        self._cross, self._stacks, self._channels, self._inside = None, None, None, None
        self.tower_part: Enter | Tap | None = None
        self.cross_layers, self.stack_producer = None, None
        self._zeros_in_sequence = False
        if isinstance(fusion, CrossFusion):
            self._cross = CrossArguments(fusion, language_model)
            self.cross_layers = self._cross.layers
        elif isinstance(fusion, DeepStackFusion) and fusion.in_tower:
            self._inside = TowerGroups(fusion, self.towers, self.tower_layout)
            self.tower_part = self._inside.first_part
        elif isinstance(fusion, DeepStackFusion):
            self.tower_part = Tap(fusion.levels) if fusion.levels else None
            self._stacks = StackArguments(fusion, language_model)
            self.stack_producer = make_producer(fusion, panels, width)
            self._zeros_in_sequence = fusion.sequence == "zeros"
        elif isinstance(fusion, ChannelFusion):
            self._channels = ChannelGroups(fusion, self.tower_layout)

    @property
    def attention_rule(self) -> Rule:
        """The attention rule."""
        return self._attention.rule

    def _init_weights(self, module: nn.Module) -> None:
        """Leave the weights as each part made them at its construction."""

    def get_input_embeddings(self) -> nn.Module:
        """The language model's embedding table."""
        return cast(nn.Module, self.language_model.get_input_embeddings())

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the language model's embedding table."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The language model's head."""
        return cast(nn.Module, self.language_model.get_output_embeddings())

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        pixel_values: Tensor | None = None,
        tile_features: Tensor | None = None,
        tiles_per_image: Tensor | None = None,
        images_per_sample: Tensor | None = None,
        tile_index: Tensor | None = None,
        image_sizes: Tensor | None = None,
        token_kinds: Tensor | None = None,
        document_ids: Tensor | None = None,
        image_ids: Tensor | None = None,
        token_places: Tensor | None = None,
        stacks: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        logits_to_keep: int | Tensor = 0,
        embed_only: bool = False,
        **kwargs: Any,
    ) -> TriptychOutput:
        """Run the model.

        Args:
            input_ids: (B, S); an image is a run of ``image_token_id`` as long as its tokens.
            attention_mask: (B, S), 0 where padded, on either side.
            position_ids: (B, S); default: counted from the mask, or in each document.
            past_key_values: cache of earlier tokens.
            inputs_embeds: (B, S, D) instead of ``input_ids``, visual tokens already in place.
            pixel_values: uint8 (T, 3, S, S), the tiles of all images in order of appearance.
            tile_features: (T, P, D), cached tower features instead of ``pixel_values``.
            tiles_per_image: (I,).
            images_per_sample: (B,).
            tile_index: (T,), the place of each tile in ``pixel_values`` (or ``tile_features``), so
                that equal tiles are given and encoded once. Default: they are all given.
            image_sizes: (I, 2) pixels, width first; the tilings that look at them need them.
            token_kinds: (B, K) of all tokens, cached ones included: 0 padding, 1 text, 2 image.
                Attention rules other than causal need them where tokens are cached or embedded
                by the caller; see ``token_kinds``.
            document_ids: (B, K); documents of a packed row do not see each other, and the positions
                of each begin at 0.
            image_ids: (B, K) for those rules; default: counted from the images given.
            token_places: (B, K) for those rules; the order of the tokens where the cached ones do
                not stand in it.
            stacks: (B, G, S, D), with ``inputs_embeds`` and fusion ``deepstack``: what is added to
                these embeddings in deeper layers; ``embed_stacked`` makes both.
            labels: (B, S), not shifted, -100 outside the loss.
            num_items_in_batch: divisor of the summed loss; default: the supervised tokens here.
            logits_to_keep: without labels, how many last positions (or which) get logits.
            embed_only: stop before the language model and give ``inputs_embeds`` alone.
            kwargs: for the language model.

        Raises:
            SpanError: placeholders and images do not match.
        """
        images = Images(
            pixel_values, tile_features, tiles_per_image, images_per_sample, tile_index, image_sizes
        )
        check_given(stacks, wanted=self._stacks is not None, embedded=inputs_embeds is not None)
        if inputs_embeds is None:
            inputs_embeds, stacks = self.embed_stacked(cast(Tensor, input_ids), images)
        if embed_only:
            return TriptychOutput(inputs_embeds=inputs_embeds)
        if position_ids is None and past_key_values is None:
            position_ids = count_positions(attention_mask, document_ids)
        tokens = TokenInputs(token_kinds, document_ids, image_ids, token_places)
        if input_ids is not None:
            first = begins(past_key_values)
            kinds = self.find_token_kinds(input_ids, attention_mask) if first else None
            inside = self.tile_tokens.plan(images) if self._cross is None else []
            counts = self.tile_tokens.count(inside)
            tokens = tokens.complete(kinds, input_ids.shape[1], counts)
        kwargs |= {"attention_mask": attention_mask, "position_ids": position_ids}
        kwargs |= self._attention.prepare(
            self.language_model, tokens, inputs_embeds.shape[1], past_key_values
        )
        if labels is not None:
            kwargs.setdefault("use_cache", False)
        if self._cross is not None:
            past_key_values = self._cross.choose_cache(past_key_values, kwargs.get("use_cache"))
            visual = self._look(input_ids, images, cached_tokens(past_key_values))
            masks = SequenceMasks(inputs_embeds.shape[1], attention_mask, document_ids)
            kwargs |= self._cross.prepare(visual, masks, past_key_values)
        if self._stacks is not None:
            kwargs |= self._stacks.prepare(stacks, inputs_embeds)
        outputs = self.language_model.get_decoder()(
            inputs_embeds=inputs_embeds, past_key_values=past_key_values, **kwargs
        )
        for added in (self._cross, self._stacks):
            if added is not None:
                added.check(kwargs)
        hidden = outputs.last_hidden_state
        loss, logits = self._predict(hidden, labels, num_items_in_batch, logits_to_keep)
        return TriptychOutput(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
            router_logits=outputs.get("router_logits"),
        )

    def _predict(
        self,
        hidden: Tensor,
        labels: Tensor | None,
        items: Tensor | int | None,
        to_keep: int | Tensor,
    ) -> tuple[Tensor | None, Tensor]:
        """Loss and logits out of the last hidden states (B, S, D); see ``forward``."""
        if labels is None:
            kept = slice(-to_keep, None) if isinstance(to_keep, int) else to_keep
            return None, self._logits(hidden[:, kept])
        chosen, targets = supervised(hidden, labels)
        logits = self._logits(chosen)
        return cross_entropy(logits, targets, items), logits

    def _logits(self, hidden: Tensor) -> Tensor:
        logits = self._head(self.get_output_embeddings(), hidden)
        return logits if self.new_tokens is None else self.new_tokens.forbid(logits)

    def attend_by_document(self) -> bool:
        """Compute attention of packed rows document by document, where the layers allow it.

        It changes no result. Without it, transformers masks the whole row, which costs the square
        of its length.

        Returns:
            False, with nothing changed, when a layer has a sliding window or dropout.
        """
        return self._attention.attend_by_document(self.language_model)

    def find_token_kinds(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Kinds (B, K) of whole sequences: 0 padding, 1 text, 2 image; see ``forward``."""
        return find_kinds(input_ids, attention_mask, self.config.image_token_id)
