"""ImageReuse: every image goes through the language model once, for all conversations."""

import hashlib
import json
from collections.abc import Sequence

from triptych.attention import ImageCache, ImageEntry
from triptych.inference.vision import Picture, VisionCache
from triptych.model.fingerprint import fingerprint, watch
from triptych.model.image_keys import ImageKeys
from triptych.model.key_rotation import KeyRotation
from triptych.model.modeling import TriptychForConditionalGeneration
from triptych.model.processing import TriptychProcessor


class ImageReuse:
    """Entries of images for one model, from the cache or computed.

    Weights may change between uses: the model is then another one to the cache, and its tower
    features are forgotten.

    Args:
        model: a model with attention ``mmca``, in evaluation mode.
        processor: its processor.
        vision: gives tower features.
        cache: where entries are kept; several models may share one.

    Attributes:
        cache: the same.
        encoded_tokens: visual tokens that have been run through the language model.

    Raises:
        RecipeError: the images of such a model depend on what stands around them, or its position
            encoding is not known.
    """

    def __init__(
        self,
        model: TriptychForConditionalGeneration,
        processor: TriptychProcessor,
        vision: VisionCache,
        cache: ImageCache,
    ) -> None:
        self.cache = cache
        self.encoded_tokens = 0
        self._model = model
        self._vision = vision
        self._keys = ImageKeys(model)
        self._cutting = json.dumps(processor.vision, sort_keys=True, default=str)
        self._watched: tuple[object, ...] = ()
        self._name = ""

    @property
    def rotation(self) -> KeyRotation:
        """How the language model rotates keys."""
        return self._keys.rotation

    def read(self, pictures: Sequence[Picture]) -> None:
        """Make sure that the pixels of images that are not kept can be had.

        Raises:
            ImageError: an image cannot be decoded.
        """
        if pictures:
            name = self._identify()
            self._vision.features([one for one in pictures if not self.cache.knows(name, one.key)])

    def entries(self, wanted: Sequence[Picture]) -> list[ImageEntry]:
        """Keys and values of each image; those that are not kept are computed together.

        Raises:
            ImageError: an image cannot be decoded.
        """
        if not wanted:
            return []
        name = self._identify()
        found: dict[str, ImageEntry] = {}
        missing: dict[str, Picture] = {}
        for picture in wanted:
            if picture.key in found or picture.key in missing:
                continue
            entry = self.cache.find(name, picture.key)
            if entry is None:
                missing[picture.key] = picture
            else:
                found[picture.key] = entry
        if missing:
            pictures = list(missing.values())
            made = self._keys.entries(
                self._vision.features(pictures), [picture.size for picture in pictures]
            )
            for key, entry in zip(missing, made, strict=True):
                self.encoded_tokens += entry.tokens
                self.cache.keep(name, key, entry)
                found[key] = entry
        return [found[picture.key] for picture in wanted]

    def _identify(self) -> str:
        """Name the model as it is now, and the way in which its images are cut."""
        watched = watch(self._model)
        if watched != self._watched:
            if self._watched:
                self._vision.clear()
            named = f"{fingerprint(self._model)} {self._cutting}"
            self._name = hashlib.sha256(named.encode()).hexdigest()
            self._watched = watched
        return self._name


def statistics(reuse: ImageReuse | None, why_not: str) -> dict[str, int | float | str]:
    """What a user is shown of the image cache.

    Args:
        reuse: the cache's user; None without a cache.
        why_not: why there is none, where the model decided.
    """
    if reuse is None:
        return {"state": "off", "reason": why_not or "switched off"}
    cache = reuse.cache
    return {
        "state": "on",
        "images": len(cache),
        "megabytes": round(cache.size_bytes / 1e6, 3),
        "limit_megabytes": round(cache.limit_bytes / 1e6, 3),
        "hits": cache.hits,
        "misses": cache.misses,
        "evicted": cache.evicted,
    }
