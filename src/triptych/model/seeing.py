"""From the images of a batch to embeddings: what a model sees, before its language model reads.

Shape suffixes: B batch, S sequence, I images, T tiles, P tokens of a tile, V visual tokens of a
tile, N those of the batch, G groups, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from triptych.connectors import Connector
from triptych.fusion.cross_cache import CrossMemory
from triptych.fusion.splice import splice
from triptych.images.count import sequence_tokens
from triptych.images.layout import TileLayout
from triptych.images.plan import TilePlan
from triptych.model.channels import ChannelGroups
from triptych.model.configuration import TriptychConfig
from triptych.model.cross import CrossArguments, Visual, arrange, hide, refuse_embeddings
from triptych.model.deepstack import StackArguments, spread
from triptych.model.inside import TowerGroups
from triptych.model.new_tokens import NewTokens
from triptych.model.stacks import SeenTiles, StackProducer
from triptych.model.tiles import TileTokens
from triptych.model.vision import Images, check_mask, encode_tiles
from triptych.towers import Enter, Tap


@dataclass(frozen=True)
class Seen:
    """The visual tokens of a batch.

    Attributes:
        tokens: (N, D), in order of appearance.
        counts: visual tokens of each image.
        stacks: (G, N, D), what is added to them in deeper layers, or None.
    """

    tokens: Tensor
    counts: list[int]
    stacks: Tensor | None


class SeeingMixin:
    """Towers, connector and the places of visual tokens, for a model that has these parts."""

    config: TriptychConfig
    training: bool
    towers: nn.ModuleList
    tower_layout: TileLayout
    tower_width: int
    connected_width: int
    feature_shape: tuple[int, int]
    tile_size: int
    tiles_at_once: int | None
    _every_part: Literal["tiles", "features"] | None
    tower_part: Enter | Tap | None
    connector: Connector
    tile_tokens: TileTokens
    new_tokens: NewTokens | None
    cross_layers: nn.ModuleDict | None
    stack_producer: StackProducer | None
    _cross: CrossArguments | None
    _stacks: StackArguments | None
    _channels: ChannelGroups | None
    _inside: TowerGroups | None
    _zeros_in_sequence: bool

    def get_input_embeddings(self) -> nn.Module:
        """The language model's embedding table."""
        raise NotImplementedError

    def encode_tiles(self, pixel_values: Tensor) -> Tensor:
        """Tower features (T, P, D) of uint8 tiles (T, 3, S, S), channels of all towers.

        Where the fusion taps levels of the towers their channels follow; where it adds groups
        inside the tower, this is what enters the first of these blocks.
        """
        return encode_tiles(
            self.towers, pixel_values, self.tower_layout, self.tiles_at_once, self.tower_part
        )

    def get_image_features(
        self,
        pixel_values: Tensor | None = None,
        tile_features: Tensor | None = None,
        patch_mask: Tensor | None = None,
        tiles_per_image: Tensor | None = None,
        tile_index: Tensor | None = None,
        plans: Sequence[TilePlan] | None = None,
    ) -> Tensor:
        """Visual tokens (T, V, D) of tiles, or of their cached tower features.

        With a connector that samples whole images they are (I, V, D). With fusion ``channels``,
        and with groups added inside the tower, the T tiles are those in the sequence, and
        ``plans`` say which of the given these are.

        Raises:
            SpanError: ``patch_mask`` does not fit, or leaves nothing of a tile; or plans lack.
        """
        features = self._tile_features(pixel_values, tile_features, tile_index)
        return self._connect(features, patch_mask, tiles_per_image, plans)

    def _tile_features(
        self,
        pixel_values: Tensor | None,
        tile_features: Tensor | None,
        tile_index: Tensor | None,
    ) -> Tensor:
        """Tower features (T, P, D) of all tiles of a batch."""
        if tile_features is None:
            tile_features = self.encode_tiles(cast(Tensor, pixel_values))
        return tile_features if tile_index is None else tile_features[tile_index]

    def _connect(
        self,
        features: Tensor,
        mask: Tensor | None,
        tiles_per_image: Tensor | None,
        plans: Sequence[TilePlan] | None,
    ) -> Tensor:
        if self._inside is not None:
            features, mask, tiles_per_image = self._inside.join(
                features, mask, plans, self.tiles_at_once
            )
        if mask is not None:
            check_mask(mask, features, tiles_per_image, self.tower_layout.prefix)
        if self._channels is not None:
            features, mask, tiles_per_image = self._channels.join(features, mask, plans)
        features = features[..., : self.connected_width]
        dtype = next(self.connector.parameters()).dtype
        return cast(Tensor, self.connector(features.to(dtype), mask, tiles_per_image))

    def embed(self, input_ids: Tensor, images: Images) -> Tensor:
        """Embed a sequence (B, S) with the visual tokens at their places: (B, S, D).

        With cross fusion these stay outside, and the placeholders have embeddings of their own.

        Raises:
            SpanError: placeholders and images do not match.
        """
        return self.embed_stacked(input_ids, images)[0]

    def embed_stacked(self, input_ids: Tensor, images: Images) -> tuple[Tensor, Tensor | None]:
        """Embed a sequence (B, S), and what is added to it in deeper layers.

        Whoever runs a sequence in chunks of any length cuts both alike and gives them to
        ``forward`` as ``inputs_embeds`` and ``stacks``.

        Returns:
            Embeddings (B, S, D), and stacks (B, G, S, D) where the fusion is ``deepstack``.

        Raises:
            SpanError: placeholders and images do not match.
        """
        table = self.get_input_embeddings()
        if self.new_tokens is None:
            embeddings = cast(Tensor, table(input_ids))
        else:
            embeddings = self.new_tokens.embed(input_ids, table)
        if self._cross is not None:
            return embeddings, None
        placeholders = input_ids == self.config.image_token_id
        if images.tiles or bool(placeholders.any()):
            seen = self._see(placeholders, images)
            stacks = None if seen.stacks is None else spread(seen.stacks, placeholders)
            return splice(embeddings, placeholders, seen.tokens), stacks
        if self._runs_blank():
            nothing = (0.0 * self._see_nothing().sum()).to(embeddings.dtype)
            return embeddings + nothing, self._stack_nothing(embeddings)
        return embeddings, self._stack_nothing(embeddings)

    def _see(self, placeholders: Tensor, images: Images) -> Seen:
        """Visual tokens of all images, checked against the placeholders."""
        plans = self.tile_tokens.plan(images)
        counts = self.tile_tokens.count(plans)
        outside = self._cross is not None
        images.check(placeholders, [sequence_tokens(one, outside=outside) for one in counts])
        mask = self.tile_tokens.mask(plans, placeholders.device)
        features = self._tile_features(images.pixel_values, images.tile_features, images.tile_index)
        visual = self._connect(features, mask, images.tiles_per_image, plans)
        tokens = self.tile_tokens(visual, plans)
        if self._zeros_in_sequence:
            tokens = tokens * self.tile_tokens.is_learned(plans, tokens.device)[:, None]
        if self.stack_producer is None:
            return Seen(tokens, counts, None)
        stacks = self.stack_producer(SeenTiles(features, visual, plans))
        return Seen(tokens, counts, stacks)

    def _look(self, input_ids: Tensor | None, images: Images, first: int) -> Visual | None:
        """Visual tokens for cross fusion, and where they are; see ``arrange``."""
        if input_ids is None:
            if images.tiles:
                refuse_embeddings()
            return None
        placeholders = input_ids == self.config.image_token_id
        if images.tiles or bool(placeholders.any()):
            seen = self._see(placeholders, images)
            return arrange(seen.tokens, seen.counts, placeholders, first)
        if self._runs_blank():
            return hide(self._see_nothing(), len(input_ids))
        return None

    def sequence_tokens(self, width: int, height: int) -> int:
        """Tokens of the sequence that an image of ``width`` x ``height`` pixels takes."""
        visual = self.tile_tokens.tokens_of(width, height)
        return sequence_tokens(visual, outside=self._cross is not None)

    def make_cache(self) -> DynamicCache:
        """An empty cache for tokens, and for images where fusion keeps them outside."""
        return DynamicCache() if self._cross is None else CrossMemory()

    def run_every_part(self, given: Literal["tiles", "features"]) -> None:
        """Run every part in every pass, on a blank tile where there is no image.

        Needed where ranks gather the parameters of a part together when it runs.

        Args:
            given: what batches carry: tiles, or features, so that the towers never run.
        """
        self._every_part = given

    def _runs_blank(self) -> bool:
        return self._every_part is not None or (self.training and torch.is_grad_enabled())

    def _see_nothing(self) -> Tensor:
        """Tokens (V, D) of a blank tile and the learnable ones, to be used so that none counts.

        Every rank then has a gradient for every trainable parameter and takes part in the same
        collectives, also with a batch of text alone.
        """
        device = next(self.connector.parameters()).device
        plan = self.tile_tokens.blank
        learns = any(p.requires_grad for p in self.towers.parameters())
        if self._every_part == "tiles" or (self._every_part is None and learns):
            side = self.tile_size
            blank = torch.zeros(1, 3, side, side, dtype=torch.uint8, device=device)
            features = self.encode_tiles(blank)
        else:
            features = torch.zeros(1, *self.feature_shape, device=device)
        visual = self._connect(features, None, None, [plan])
        tokens = cast(Tensor, self.tile_tokens(visual, None))
        if self.stack_producer is None:
            return tokens
        stacks = self.stack_producer(SeenTiles(features, visual, [plan]))
        return torch.cat([tokens, stacks.flatten(0, 1)])

    def _stack_nothing(self, embeddings: Tensor) -> Tensor | None:
        if self._stacks is None:
            return None
        batch, length, width = embeddings.shape
        return embeddings.new_zeros(1).expand(batch, self._stacks.groups, length, width)
