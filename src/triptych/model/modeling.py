"""TriptychForConditionalGeneration: towers, connector and language model, composed.

Shape suffixes: B batch, S sequence, I images, T tiles, P tokens of a tile, V visual tokens,
N supervised tokens, D width, K vocabulary.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Cache, DynamicCache, PreTrainedModel

from triptych.attention import Rule
from triptych.fusion import CrossFusion
from triptych.fusion.cross import SequenceMasks
from triptych.fusion.cross_cache import CrossMemory
from triptych.fusion.splice import splice
from triptych.images.count import sequence_tokens
from triptych.language.head import VocabularyHead, cross_entropy, supervised
from triptych.model.attention import (
    RuleArguments,
    TokenInputs,
    begins,
    count_positions,
    find_kinds,
)
from triptych.model.configuration import TriptychConfig
from triptych.model.cross import (
    CrossArguments,
    Visual,
    arrange,
    cached_tokens,
    hide,
    refuse_embeddings,
)
from triptych.model.generation import ImageGenerationMixin
from triptych.model.new_tokens import NewTokens
from triptych.model.output import TriptychOutput
from triptych.model.tiles import TileTokens
from triptych.model.vision import Images, check_mask, encode_tiles


class TriptychForConditionalGeneration(PreTrainedModel, ImageGenerationMixin):
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
        self.connector = panels.connector.build(
            panels.tower_layout, panels.tower_width, text.hidden_size
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
        self._cross = (
            CrossArguments(panels.fusion, language_model)
            if isinstance(panels.fusion, CrossFusion)
            else None
        )
        self.cross_layers = None if self._cross is None else self._cross.layers
        self._head = VocabularyHead(text.to_dict())
        self.post_init()

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

    def encode_tiles(self, pixel_values: Tensor) -> Tensor:
        """Tower features (T, P, D) of uint8 tiles (T, 3, S, S), channels of all towers."""
        return encode_tiles(self.towers, pixel_values, self.tower_layout, self.tiles_at_once)

    def get_image_features(
        self,
        pixel_values: Tensor | None = None,
        tile_features: Tensor | None = None,
        patch_mask: Tensor | None = None,
        tiles_per_image: Tensor | None = None,
        tile_index: Tensor | None = None,
    ) -> Tensor:
        """Visual tokens (T, V, D) of tiles, or of their cached tower features.

        With a connector that samples whole images they are (I, V, D).

        Raises:
            SpanError: ``patch_mask`` does not fit, or leaves nothing of a tile.
        """
        if tile_features is None:
            tile_features = self.encode_tiles(cast(Tensor, pixel_values))
        if tile_index is not None:
            tile_features = tile_features[tile_index]
        if patch_mask is not None:
            check_mask(patch_mask, tile_features, tiles_per_image, self.tower_layout.prefix)
        dtype = next(self.connector.parameters()).dtype
        visual = self.connector(tile_features.to(dtype), patch_mask, tiles_per_image)
        return cast(Tensor, visual)

    def embed(self, input_ids: Tensor, images: Images) -> Tensor:
        """Embed a sequence (B, S) with the visual tokens at their places: (B, S, D).

        With cross fusion these stay outside, and the placeholders have embeddings of their own.

        Raises:
            SpanError: placeholders and images do not match.
        """
        table = self.get_input_embeddings()
        if self.new_tokens is None:
            embeddings = cast(Tensor, table(input_ids))
        else:
            embeddings = self.new_tokens.embed(input_ids, table)
        if self._cross is not None:
            return embeddings
        placeholders = input_ids == self.config.image_token_id
        if images.tiles or bool(placeholders.any()):
            return splice(embeddings, placeholders, self._see(placeholders, images)[0])
        if self.training and torch.is_grad_enabled():
            return embeddings + (0.0 * self._see_nothing().sum()).to(embeddings.dtype)
        return embeddings

    def _see(self, placeholders: Tensor, images: Images) -> tuple[Tensor, list[int]]:
        """Visual tokens (V, D) of all images, checked against the placeholders; and of each."""
        plans = self.tile_tokens.plan(images)
        counts = self.tile_tokens.count(plans)
        outside = self._cross is not None
        images.check(placeholders, [sequence_tokens(one, outside=outside) for one in counts])
        mask = self.tile_tokens.mask(plans, placeholders.device)
        visual = self.get_image_features(**images.vision(), patch_mask=mask)
        return cast(Tensor, self.tile_tokens(visual, plans)), counts

    def _look(self, input_ids: Tensor | None, images: Images, first: int) -> Visual | None:
        """Visual tokens for cross fusion, and where they are; see ``arrange``."""
        if input_ids is None:
            if images.tiles:
                refuse_embeddings()
            return None
        placeholders = input_ids == self.config.image_token_id
        if images.tiles or bool(placeholders.any()):
            return arrange(*self._see(placeholders, images), placeholders, first)
        if self.training and torch.is_grad_enabled():
            return hide(self._see_nothing(), len(input_ids))
        return None

    def sequence_tokens(self, width: int, height: int) -> int:
        """Tokens of the sequence that an image of ``width`` x ``height`` pixels takes."""
        visual = self.tile_tokens.tokens_of(width, height)
        return sequence_tokens(visual, outside=self._cross is not None)

    def make_cache(self) -> DynamicCache:
        """An empty cache for tokens, and for images where fusion keeps them outside."""
        return DynamicCache() if self._cross is None else CrossMemory()

    def _see_nothing(self) -> Tensor:
        """Tokens (V, D) of a blank tile and the learnable ones, to be used so that none counts.

        Every rank then has a gradient for every trainable parameter and takes part in the same
        collectives, also with a batch of text alone.
        """
        device = next(self.connector.parameters()).device
        if any(p.requires_grad for p in self.towers.parameters()):
            side = self.tile_size
            blank = torch.zeros(1, 3, side, side, dtype=torch.uint8, device=device)
            visual = self.get_image_features(pixel_values=blank)
        else:
            shape = (1, self.tower_layout.tokens, self.tower_width)
            visual = self.get_image_features(tile_features=torch.zeros(shape, device=device))
        learned, tokens = self.tile_tokens.weight, visual.flatten(0, 1)
        return tokens if learned is None else torch.cat([tokens, learned.to(tokens.dtype)])

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
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        logits_to_keep: int | Tensor = 0,
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
            labels: (B, S), not shifted, -100 outside the loss.
            num_items_in_batch: divisor of the summed loss; default: the supervised tokens here.
            logits_to_keep: without labels, how many last positions (or which) get logits.
            kwargs: for the language model.

        Raises:
            SpanError: placeholders and images do not match.
        """
        images = Images(
            pixel_values, tile_features, tiles_per_image, images_per_sample, tile_index, image_sizes
        )
        if inputs_embeds is None:
            inputs_embeds = self.embed(cast(Tensor, input_ids), images)
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
        outputs = self.language_model.get_decoder()(
            inputs_embeds=inputs_embeds, past_key_values=past_key_values, **kwargs
        )
        if self._cross is not None:
            self._cross.check(kwargs)
        hidden, loss = outputs.last_hidden_state, None
        if labels is None:
            kept = (
                slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            )
            logits = self._logits(hidden[:, kept])
        else:
            chosen, targets = supervised(hidden, labels)
            logits = self._logits(chosen)
            loss = cross_entropy(logits, targets, num_items_in_batch)
        return TriptychOutput(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
        )

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
