"""GrowingCache: a key-value cache with room behind its tokens.

transformers' own cache copies all keys and values for every token that is generated; with several
images in the conversation that is most of the time of a step. It is for inference: gradients do
not flow through what is kept.

Shape suffixes: B batch, Hk key heads, S tokens kept, N new tokens, D head width.
"""

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from triptych.fusion.cross_cache import CrossMemory
from triptych.model.modeling import TriptychForConditionalGeneration

_LEAST_ROOM = 256
_ROOM_SHARE = 8


class GrowingLayer(DynamicLayer):
    """Keys and values of one layer; ``keys`` and ``values`` are views of longer buffers."""

    keys: Tensor
    values: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._room: list[Tensor] = []

    def extend(
        self, key_like: Tensor, value_like: Tensor, count: int, *, ahead: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Append ``count`` tokens; the caller writes the views (B, Hk, N, D) that are returned.

        Args:
            key_like: (B, Hk, any, D), for shape and type.
            value_like: likewise.
            count: N.
            ahead: tokens that are known to follow.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_like, value_like)
        kept = self.get_seq_length()
        needed = kept + count
        views = []
        pairs: list[tuple[Tensor, Tensor]] = [(self.keys, key_like), (self.values, value_like)]
        for place, (now, like) in enumerate(pairs):
            if not self._fits(place, now, needed):
                self._grow(place, now, like, kept, needed + ahead)
            views.append(self._room[place][:, :, :needed])
        self.keys, self.values = views
        return self.keys[:, :, kept:], self.values[:, :, kept:]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values (B, Hk, N, D); return all that are kept."""
        keys, values = self.extend(key_states, value_states, key_states.shape[2])
        keys.copy_(key_states)
        values.copy_(value_states)
        return self.keys, self.values

    def _fits(self, place: int, now: Tensor, needed: int) -> bool:
        """Whether the tokens kept still stand in the buffer, and it is long enough."""
        if len(self._room) < 2:
            return False
        room = self._room[place]
        same = now.data_ptr() == room.data_ptr() and now.shape[:2] == room.shape[:2]
        return same and needed <= room.shape[2]

    def _grow(self, place: int, now: Tensor, like: Tensor, kept: int, needed: int) -> None:
        batch, heads, _, depth = like.shape
        length = needed + max(_LEAST_ROOM, needed // _ROOM_SHARE)
        room = like.new_empty((batch, heads, length, depth))
        if kept:
            room[:, :, :kept] = now
        self._room[place : place + 1] = [room]


class GrowingCache(DynamicCache):
    """A cache in which every layer keeps all tokens, with room for more."""

    def __init__(self) -> None:
        super().__init__()
        self.layer_class_to_replicate = GrowingLayer

    def extend(
        self, layer: int, key_like: Tensor, value_like: Tensor, count: int, *, ahead: int = 0
    ) -> tuple[Tensor, Tensor]:
        """See ``GrowingLayer.extend``; layers are made as they are needed."""
        while len(self.layers) <= layer:
            self.layers.append(GrowingLayer())
        found = self.layers[layer]
        if not isinstance(found, GrowingLayer):
            raise TypeError(f"layer {layer} is a {type(found).__name__}, not a GrowingLayer")
        return found.extend(key_like, value_like, count, ahead=ahead)


class GrowingCrossCache(CrossMemory, GrowingCache):
    """A growing cache for a model whose images stay outside the sequence."""


def make_cache(model: TriptychForConditionalGeneration) -> GrowingCache:
    """An empty cache of the kind that the model's fusion needs."""
    return GrowingCache() if model.cross_layers is None else GrowingCrossCache()
