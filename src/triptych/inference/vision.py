"""VisionCache: every image is opened once and goes through the towers once.

Shape suffixes: T tiles, P tokens of a tile, D width.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from triptych.images.decode import ImageInput, content_hash, image_size, open_image
from triptych.model.modeling import TriptychForConditionalGeneration
from triptych.model.processing import TriptychProcessor


@dataclass(frozen=True)
class Picture:
    """An image whose header has been read.

    Attributes:
        source: where its pixels come from.
        key: hash of its content; equal images have equal keys.
        size: width and height in pixels.
    """

    source: ImageInput
    key: str
    size: tuple[int, int]


class VisionCache:
    """Tower features of the images seen lately, found again by their content.

    Args:
        model: gives ``encode_tiles``.
        processor: cuts an image into tiles.
        limit_bytes: memory kept; the images unused for longest are forgotten first.
        tiles_at_once: most tiles in one pass through the towers.
    """

    def __init__(
        self,
        model: TriptychForConditionalGeneration,
        processor: TriptychProcessor,
        *,
        limit_bytes: int = 2**30,
        tiles_at_once: int = 64,
    ) -> None:
        self._model = model
        self._processor = processor
        self._limit = limit_bytes
        self._tiles_at_once = tiles_at_once
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self._bytes = 0

    def look(self, source: ImageInput) -> Picture:
        """Read the header and the hash of an image; its pixels are not decoded.

        Raises:
            ImageError: it is missing, not an image, or larger than the limits.
        """
        return Picture(source, content_hash(source), image_size(source))

    def look_all(self, sources: Sequence[ImageInput]) -> list[Picture]:
        """``look`` at many images, once for each path that occurs several times."""
        known: dict[str | Path, Picture] = {}
        pictures = []
        for source in sources:
            if isinstance(source, str | Path):
                if source not in known:
                    known[source] = self.look(source)
                pictures.append(known[source])
            else:
                pictures.append(self.look(source))
        return pictures

    def clear(self) -> None:
        """Forget everything; needed when the towers have been trained in between."""
        self._kept.clear()
        self._bytes = 0

    def features(self, pictures: Sequence[Picture]) -> list[Tensor]:
        """Tower features of each image.

        Returns:
            One (T, P, D) tensor per image, on the model's device, in the order given.

        Raises:
            ImageError: an image cannot be decoded.
        """
        found: dict[str, Tensor] = {}
        missing: dict[str, Picture] = {}
        for picture in pictures:
            if picture.key in self._kept:
                self._kept.move_to_end(picture.key)
                found[picture.key] = self._kept[picture.key]
            else:
                missing[picture.key] = picture
        group: dict[str, np.ndarray] = {}
        for key, picture in missing.items():
            group[key] = self._processor.tiles(open_image(picture.source))
            if sum(len(tiles) for tiles in group.values()) >= self._tiles_at_once:
                found |= self._encode(group)
                group = {}
        found |= self._encode(group)
        return [found[picture.key] for picture in pictures]

    def inputs(self, samples: Sequence[Sequence[Picture]]) -> dict[str, Tensor]:
        """Arguments of the model about images.

        Args:
            samples: for each row of the batch its images.

        Returns:
            ``images_per_sample`` (B,), and when there are images ``tile_features`` (T, P, D),
            ``tiles_per_image`` (I,) and ``image_sizes`` (I, 2).

        Raises:
            ImageError: an image cannot be decoded.
        """
        device = self._model.device
        counts = torch.tensor([len(sample) for sample in samples], device=device)
        pictures = [picture for sample in samples for picture in sample]
        if not pictures:
            return {"images_per_sample": counts}
        images = self.features(pictures)
        return {
            "images_per_sample": counts,
            "tiles_per_image": torch.tensor([len(image) for image in images], device=device),
            "image_sizes": torch.tensor([picture.size for picture in pictures], device=device),
            "tile_features": torch.cat(images),
        }

    def _encode(self, group: dict[str, np.ndarray]) -> dict[str, Tensor]:
        if not group:
            return {}
        tiles = torch.from_numpy(np.concatenate(list(group.values()))).to(self._model.device)
        with torch.no_grad():
            encoded = torch.cat(
                [self._model.encode_tiles(part) for part in torch.split(tiles, self._tiles_at_once)]
            )
        parts = torch.split(encoded, [len(tiles) for tiles in group.values()])
        features = {key: part.clone() for key, part in zip(group, parts, strict=True)}
        for key, value in features.items():
            self._keep(key, value)
        return features

    def _keep(self, key: str, value: Tensor) -> None:
        self._kept[key] = value
        self._bytes += value.numel() * value.element_size()
        while self._bytes > self._limit and self._kept:
            _, old = self._kept.popitem(last=False)
            self._bytes -= old.numel() * old.element_size()
