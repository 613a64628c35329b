"""ImageCache: what an image is to every layer of a language model, kept for the next time.

Under the rule ``mmca`` (DeepSpeed-VisualChat, arXiv 2309.14327) a visual token reads nothing but
its own image. Its keys and values in every layer then depend on the image alone, whatever stands
around it, and are all that later tokens ever need of it.

Shape suffixes: Hk key heads, V visual tokens, D head width, L layers.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from triptych.attention.rules import Rule
from triptych.errors import RecipeError


@dataclass(frozen=True)
class ImageEntry:
    """Keys and values of one image.

    Attributes:
        keys: (Hk, V, D) for each of the L layers, before rotation.
        values: (Hk, V, D) for each of the L layers.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def tokens(self) -> int:
        """Number of visual tokens."""
        return self.keys[0].shape[1]

    @property
    def size_bytes(self) -> int:
        """Memory that the entry takes."""
        return sum(one.numel() * one.element_size() for one in (*self.keys, *self.values))


class ImageCache:
    """Entries by image and model; those unused for longest are forgotten first.

    Args:
        limit_bytes: memory kept; an entry larger than that is not kept at all.

    Attributes:
        hits: images that were found.
        misses: images that were not.
        evicted: entries forgotten because of the limit.
        size_bytes: memory kept now.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.hits = 0
        self.misses = 0
        self.evicted = 0
        self.size_bytes = 0
        self._kept: OrderedDict[tuple[str, str], ImageEntry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def knows(self, model: str, image: str) -> bool:
        """Whether an image is kept; this is no use of it."""
        return (model, image) in self._kept

    def find(self, model: str, image: str) -> ImageEntry | None:
        """Look an image up, and count whether it was there.

        Args:
            model: fingerprint of the model.
            image: hash of the image's content.
        """
        found = self._kept.get((model, image))
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
            self._kept.move_to_end((model, image))
        return found

    def keep(self, model: str, image: str, entry: ImageEntry) -> None:
        """Keep an entry as long as there is room for it."""
        self._drop((model, image))
        if entry.size_bytes > self.limit_bytes:
            return
        self._kept[model, image] = entry
        self.size_bytes += entry.size_bytes
        while self.size_bytes > self.limit_bytes:
            self._drop(next(iter(self._kept)))
            self.evicted += 1

    def clear(self) -> None:
        """Forget every image; the counts stay."""
        self._kept.clear()
        self.size_bytes = 0

    def _drop(self, key: tuple[str, str]) -> None:
        old = self._kept.pop(key, None)
        if old is not None:
            self.size_bytes -= old.size_bytes


def check_context_free(rule: Rule) -> None:
    """Refuse a rule under which an image's keys depend on what stands before it.

    Raises:
        RecipeError: gives the reason.
    """
    if rule.name == "causal":
        reason = "a visual token reads everything before it"
    elif rule.images_read_text:
        reason = "a visual token reads the text before it"
    else:
        return
    raise RecipeError(
        f"images cannot be computed once and reused under attention '{rule.name}', because "
        f"{reason}: its keys and values are others in every conversation; use a model trained with "
        "attention 'mmca', or switch the image cache off (--image-cache-mb 0)"
    )


def split_entries(
    keys: Sequence[Tensor], values: Sequence[Tensor], tokens: Sequence[int]
) -> list[ImageEntry]:
    """Cut the keys and values of images that stand side by side into one entry each.

    Args:
        keys: (Hk, V, D) for each layer, V over all images.
        values: likewise.
        tokens: visual tokens of each image.
    """
    cut = [
        [[part.clone() for part in layer.split(list(tokens), dim=1)] for layer in side]
        for side in (keys, values)
    ]
    return [
        ImageEntry(tuple(layer[image] for layer in cut[0]), tuple(layer[image] for layer in cut[1]))
        for image in range(len(tokens))
    ]
