"""From a record to tokens and tiles: sizes from headers first, pixels only when asked for."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from triptych.data.features import FeatureCache
from triptych.data.roles import role_errors, split_rounds
from triptych.data.schema import ImagePart, Record
from triptych.data.spec import DataSpec
from triptych.errors import DataError, ImageError
from triptych.images.decode import image_size, open_image
from triptych.model.processing import TriptychProcessor
from triptych.model.prompt import Prompt, Skeleton

Tiles: TypeAlias = npt.NDArray[Any]
T = TypeVar("T")

SIZES_KEPT = 1 << 16
# Tokens of the texts that are kept in memory: 64 MiB at the most.
TOKENS_KEPT = 1 << 22


class RecordImageError(ImageError):
    """An image of a record cannot be used.

    Attributes:
        image: the name of the image in the record.
    """

    image: str = ""


@dataclass(frozen=True)
class Sample:
    """A record made ready for training, without its pixels.

    Attributes:
        record: the record, without the rounds that were trimmed.
        prompt: its tokens.
        tiles: image tiles of all its images together.
        trimmed: rounds that were removed to fit the context.
    """

    record: Record
    prompt: Prompt
    tiles: int
    trimmed: int = 0


@dataclass(frozen=True)
class SampleSize:
    """What a sample takes of the budgets, and the rounds that it lost to fit the context."""

    tokens: int
    tiles: int
    images: int
    trimmed: int = 0


class Encoder:
    """Encodes records under the limits of a DataSpec.

    It keeps, up to a bound, the sizes of the images and the tokens of the texts it has seen:
    questions about many images are often worded alike.

    Args:
        processor: the model's processor.
        spec: context, overflow policy and image limits.
        features: cached tower features, delivered in place of tiles when given.
    """

    def __init__(
        self, processor: TriptychProcessor, spec: DataSpec, features: FeatureCache | None = None
    ) -> None:
        self.processor = processor
        self.spec = spec
        self.features = features
        self._sizes: dict[str, tuple[int, int]] = {}
        self._costs: dict[tuple[int, int], tuple[int, int]] = {}
        self._texts: dict[Hashable, Skeleton] = {}
        self._tokens_kept = 0

    def prompt(self, record: Record) -> Prompt | None:
        """Tokens of a record, or None when it is over the context and the policy is drop."""
        sample = self.sample(record)
        return None if sample is None else sample.prompt

    def sample(self, record: Record) -> Sample | None:
        """Encode a record and apply the overflow policy; preference data learns what was chosen.

        An image is never cut: ``trim_rounds`` removes whole rounds with their images, oldest
        first, and keeps system messages and the last round.

        Returns:
            The sample, or None when it is over ``max_tokens`` and the policy is ``drop``.

        Raises:
            DataError: naming the record, when its roles are out of order, nothing in it is
                supervised, or it does not fit and the policy is not ``drop``.
            RecordImageError: when the header of an image cannot be read.
        """
        record = record.settled()
        wrong = role_errors(record.messages)
        if wrong:
            raise DataError(f"{record.where}: {wrong[0]}")
        sizes = [self._per_image(record, k, self._size) for k in range(len(record.images))]
        prompt = self._encode(record, sizes)
        trimmed = 0
        if len(prompt.input_ids) > self.spec.max_tokens:
            if self.spec.overflow == "drop":
                return None
            whole = prompt
            if self.spec.overflow == "trim_rounds":
                record, prompt, trimmed = self._trim(record, sizes, prompt)
            if len(prompt.input_ids) > self.spec.max_tokens:
                raise DataError(self._too_long(record, whole, prompt))
        # The first token has no prediction, so it cannot be learned.
        if not any(prompt.supervised[1:]):
            raise DataError(
                f"{record.where}: nothing is supervised: no assistant or document message with "
                "text and without 'loss': false" + (" is left after trimming" if trimmed else "")
            )
        kept = sizes[len(sizes) - len(record.images) :]
        tiles = sum(self._cost(size)[1] for size in kept)
        return Sample(record, prompt, tiles, trimmed)

    def size(self, record: Record) -> SampleSize | None:
        """The size of ``sample(record)`` without its tokens; None and errors as there."""
        record = record.settled()
        if not role_errors(record.messages):
            sizes = [self._per_image(record, k, self._size) for k in range(len(record.images))]
            skeleton = self._skeleton(record)
            costs = [self._cost(size) for size in sizes]
            tokens = skeleton.length([cost for cost, _ in costs])
            if tokens <= self.spec.max_tokens and skeleton.teaches:
                return SampleSize(tokens, sum(tiles for _, tiles in costs), len(costs))
        sample = self.sample(record)
        if sample is None:
            return None
        images = len(sample.record.images)
        return SampleSize(len(sample.prompt), sample.tiles, images, sample.trimmed)

    def tiles(self, record: Record) -> list[Tiles]:
        """Tiles of each image of a record: uint8 (T, 3, S, S), or features (T, P, D) if cached.

        Raises:
            RecordImageError: naming the record and the image that cannot be decoded.
        """
        return [self._per_image(record, k, self._pixels) for k in range(len(record.images))]

    def _encode(self, record: Record, sizes: list[tuple[int, int]]) -> Prompt:
        return self._skeleton(record).expand([self._cost(size)[0] for size in sizes], sizes)

    def _skeleton(self, record: Record) -> Skeleton:
        key = record.wording_key
        known = self._texts.get(key)
        if known is not None:
            return known
        try:
            skeleton = self.processor.skeleton(record.wording())
        except DataError as error:
            raise DataError(f"{record.where}: {error}") from None
        if len(skeleton.places) != len(record.images):
            raise DataError(
                f"{record.where}: the chat template shows {len(skeleton.places)} of the record's "
                f"{len(record.images)} images"
            )
        self._tokens_kept += len(skeleton.ids)
        if self._tokens_kept > TOKENS_KEPT:
            self._texts.clear()
            self._tokens_kept = len(skeleton.ids)
        self._texts[key] = skeleton
        return skeleton

    def _cost(self, size: tuple[int, int]) -> tuple[int, int]:
        """Visual tokens and tiles of an image of this size."""
        if size not in self._costs:
            if len(self._costs) >= SIZES_KEPT:
                self._costs.clear()
            self._costs[size] = (self.processor.count(*size), self.processor.plan(*size).tiles)
        return self._costs[size]

    def _trim(
        self, record: Record, sizes: list[tuple[int, int]], prompt: Prompt
    ) -> tuple[Record, Prompt, int]:
        head, rounds = split_rounds(record.messages)
        trimmed = 0
        while len(prompt.input_ids) > self.spec.max_tokens and trimmed + 1 < len(rounds):
            trimmed += 1
            left = tuple(message for part in rounds[trimmed:] for message in part)
            record = replace(record, messages=head + left)
            prompt = self._encode(record, sizes[len(sizes) - len(record.images) :])
        return record, prompt, trimmed

    def _too_long(self, record: Record, whole: Prompt, left: Prompt) -> str:
        image_tokens = sum(stop - start for start, stop in whole.spans)
        message = (
            f"{record.where}: has {len(whole.input_ids)} tokens ({image_tokens} of them for "
            f"{len(whole.spans)} images), more than max_tokens {self.spec.max_tokens}"
        )
        if self.spec.overflow == "trim_rounds":
            return message + (
                f"; its last round alone has {len(left.input_ids)}. Raise data.max_tokens or "
                "shorten the record"
            )
        return message + "; raise data.max_tokens or set data.overflow to drop or trim_rounds"

    def _per_image(self, record: Record, index: int, read: Callable[[ImagePart], T]) -> T:
        part = record.images[index]
        try:
            return read(part)
        except ImageError as error:
            named = RecordImageError(f"{record.where}: image {index + 1}: {error}")
            named.image = part.name
            raise named from None

    def _size(self, part: ImagePart) -> tuple[int, int]:
        if self.features is not None:
            return self.features.size(part)
        if isinstance(part.location, bytes):
            return image_size(part.location, limits=self.spec.limits)
        name = str(part.location)
        if name not in self._sizes:
            if len(self._sizes) >= SIZES_KEPT:
                self._sizes.clear()
            self._sizes[name] = image_size(part.location, limits=self.spec.limits)
        return self._sizes[name]

    def _pixels(self, part: ImagePart) -> Tiles:
        if self.features is not None:
            return self.features.get(part)
        return np.asarray(self.processor.tiles(open_image(part.location, limits=self.spec.limits)))
