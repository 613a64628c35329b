"""What a forward pass over a cache needs: images put into the cache, all other tokens run.

Without an image cache every token is run, visual ones too, and the cache stands in the order of
the sequence. With one, the images' keys and values come first and the tokens that are run after
them; the attention rule is told the place of each.

Shape suffixes: B batch, K tokens in the cache and run, N tokens run, V visual tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from triptych.attention import ImageEntry, Kind
from triptych.errors import SpanError
from triptych.inference.growing import GrowingCache
from triptych.inference.reuse import ImageReuse
from triptych.inference.vision import Picture, VisionCache
from triptych.model.modeling import TriptychForConditionalGeneration

Ints = npt.NDArray[np.int64]
_ROOM_FOR_ANSWER = 256


@dataclass(frozen=True)
class Part:
    """Tokens of a sequence that are not in the cache yet.

    Attributes:
        ids: of the tokens.
        start: place of the first in the sequence.
        pictures: the images whose placeholders are among them, in order.
    """

    ids: Sequence[int]
    start: int
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Known:
    """What the tokens of a cache are, in the order in which they stand there.

    Attributes:
        table: (4, B, K): ``ids``, ``kinds``, ``places`` and ``images``.
        moved: whether some stand elsewhere than in the order of their places.
    """

    table: Tensor
    moved: bool = False

    @classmethod
    def nothing(cls, rows: int, device: torch.device) -> "Known":
        """An empty cache."""
        return cls(torch.zeros((4, rows, 0), dtype=torch.long, device=device))

    @property
    def ids(self) -> Tensor:
        """Token ids (B, K)."""
        return self.table[0]

    @property
    def kinds(self) -> Tensor:
        """(B, K): 0 padding, 1 text, 2 image."""
        return self.table[1]

    @property
    def places(self) -> Tensor:
        """Places in the sequence (B, K), 0 for padding."""
        return self.table[2]

    @property
    def images(self) -> Tensor:
        """(B, K): 1 + the first place of the token's image, 0 for others."""
        return self.table[3]

    def join(self, more: "Known") -> "Known":
        """These tokens, and ``more`` behind them."""
        return Known(torch.cat([self.table, more.table], 2), self.moved or more.moved)

    def select(self, rows: Tensor) -> "Known":
        """Some rows."""
        return Known(self.table[:, rows], self.moved)

    def head(self, count: int) -> "Known":
        """The first ``count`` tokens."""
        return Known(self.table[:, :, :count], self.moved)

    def before(self, ends: Tensor) -> "Known":
        """Make padding of the tokens whose place is not before the end (B,) of their row."""
        return Known(self.table * (self.places < ends[:, None]), self.moved)

    def complete(self, limit: int) -> int:
        """The most tokens, ``limit`` at most, that are the beginning of the first row's sequence.

        Tokens that stand in another order are one only together.
        """
        furthest = self.places[0, :limit].cummax(0).values.tolist()
        counts = (count for count in range(len(furthest), 0, -1) if furthest[count - 1] < count)
        return next(counts, 0)


@dataclass(frozen=True)
class Step:
    """A forward pass.

    Attributes:
        known: all tokens, those to be run last.
        queries: N.
        pictures: arguments about the images among the tokens to be run.
        tokens_run: tokens that go through the language model, those of images that were put into
            the image cache just now among them; without padding.
        tokens_reused: visual tokens taken from the image cache.
    """

    known: Known
    queries: int
    pictures: dict[str, Tensor]
    tokens_run: int
    tokens_reused: int

    def whole(self) -> dict[str, Any]:
        """Arguments (B, K) for ``generate``, which itself takes the last N."""
        known = self.known
        arguments: dict[str, Any] = {
            "input_ids": known.ids,
            "position_ids": known.places,
            "attention_mask": (known.kinds != Kind.PAD).long(),
            "token_kinds": known.kinds,
            "image_ids": known.images,
            **self.pictures,
        }
        return arguments | ({"token_places": known.places} if known.moved else {})

    def arguments(self) -> dict[str, Any]:
        """Arguments for the model; a single token follows all others, whatever their order."""
        arguments = self.whole()
        if self.queries == 1:
            arguments.pop("token_places", None)
        for name in ("input_ids", "position_ids"):
            arguments[name] = arguments[name][:, -self.queries :]
        return arguments


class Prefiller:
    """Prepares passes of one model.

    Args:
        model: the model.
        vision: tower features of images.
        reuse: keys and values of images; None where every token is run.
        pad_id: token id put where rows are padded.
    """

    def __init__(
        self,
        model: TriptychForConditionalGeneration,
        vision: VisionCache,
        reuse: ImageReuse | None,
        pad_id: int,
    ) -> None:
        self.model = model
        self._vision = vision
        self._reuse = reuse
        self._pad_id = pad_id

    def prepare(self, parts: Sequence[Part], cache: GrowingCache, known: Known) -> Step:
        """Put the images of ``parts``, one part for each row, into ``cache``.

        Args:
            parts: what is to be appended to each row; the rows may be of unequal length.
            cache: holds ``known``; shorter rows are padded on the left.
            known: the tokens in the cache.

        Raises:
            ImageError: an image cannot be decoded.
            SpanError: placeholders and images do not match.
        """
        encoded = 0 if self._reuse is None else self._reuse.encoded_tokens
        entries = self._find(parts)
        rows = [self._sort(row, *one) for row, one in enumerate(zip(parts, entries, strict=True))]
        width = max(len(row.reused) for row in rows)
        queries = max(len(row.run) for row in rows)
        pictures = self._vision.inputs([row.pictures for row in rows])
        self._write(rows, width, cache, queries)
        added = self._describe(rows, width, queries)
        encoded = 0 if self._reuse is None else self._reuse.encoded_tokens - encoded
        return Step(
            known.join(added),
            queries,
            pictures,
            encoded + sum(len(row.run) for row in rows),
            sum(len(row.reused) for row in rows),
        )

    def _find(self, parts: Sequence[Part]) -> list[list[ImageEntry | None]]:
        """For each image its entry, or None where its tokens have to be run.

        An image at the very end is run: the logits of its last token are wanted.
        """
        runs = [
            [self._is_run(part, place) for place in range(len(part.pictures))] for part in parts
        ]
        pairs = [
            (picture, run)
            for part, row in zip(parts, runs, strict=True)
            for picture, run in zip(part.pictures, row, strict=True)
        ]
        kept = [picture for picture, run in pairs if not run]
        entries = iter([] if self._reuse is None else self._reuse.entries(kept))
        return [[None if run else next(entries) for run in row] for row in runs]

    def _is_run(self, part: Part, picture: int) -> bool:
        last = picture == len(part.pictures) - 1
        ends = part.ids[-1] == self.model.config.image_token_id
        return self._reuse is None or (last and ends)

    def _sort(self, row: int, part: Part, images: Sequence[ImageEntry | None]) -> "_Row":
        """Tell the tokens of a part that are reused from those that are run."""
        ids = np.asarray(part.ids, dtype=np.int64)
        visual = np.flatnonzero(ids == self.model.config.image_token_id)
        tokens = self.model.sequence_tokens
        pairs = list(zip(part.pictures, images, strict=True))
        counts = [tokens(*one.size) if entry is None else entry.tokens for one, entry in pairs]
        if sum(counts) != len(visual):
            raise SpanError(
                f"sample {row}: expected {sum(counts)} placeholders for {len(counts)} image(s), "
                f"found {len(visual)}"
            )
        numbers = np.zeros(len(ids), np.int64)
        reused = np.zeros(len(ids), np.bool_)
        own = np.split(visual, np.cumsum(counts)[:-1]) if counts else []
        for places, image in zip(own, images, strict=True):
            numbers[places] = part.start + places[0] + 1
            reused[places] = image is not None
        return _Row(
            ids,
            part.start,
            numbers,
            np.flatnonzero(reused),
            np.flatnonzero(~reused),
            [entry for entry in images if entry is not None],
            [one for one, entry in pairs if entry is None],
        )

    def _write(self, rows: Sequence["_Row"], width: int, cache: GrowingCache, ahead: int) -> None:
        """Append the reused images of each row to every layer of the cache."""
        like = next((entry for row in rows for entry in row.entries), None)
        if like is None or self._reuse is None:
            return
        device = self.model.device
        places = np.concatenate([row.reused + row.start for row in rows])
        turn = self._reuse.rotation.at(torch.from_numpy(places).to(device), like.keys[0].dtype)
        targets = [
            (number, width - len(row.reused) + first, entry)
            for number, row in enumerate(rows)
            for first, entry in row.placed()
        ]
        for layer in range(len(like.keys)):
            shapes = [
                one[layer].new_empty((len(rows), len(one[layer]), 0, one[layer].shape[-1]))
                for one in (like.keys, like.values)
            ]
            keys, values = cache.extend(
                layer, shapes[0], shapes[1], width, ahead=ahead + _ROOM_FOR_ANSWER
            )
            if any(len(row.reused) < width for row in rows):
                keys.zero_()
                values.zero_()
            passed = 0
            for number, first, entry in targets:
                here = slice(first, first + entry.tokens)
                part = turn.part(passed, passed + entry.tokens)
                part.write(layer, entry.keys[layer], keys[number, :, here])
                values[number, :, here] = entry.values[layer]
                passed += entry.tokens

    def _describe(self, rows: Sequence["_Row"], width: int, queries: int) -> Known:
        """What is appended to each row: images on the left, tokens to be run on the right."""
        table = np.zeros((4, len(rows), width + queries), np.int64)
        table[0] = self._pad_id
        for number, row in enumerate(rows):
            for chosen, end in ((row.reused, width), (row.run, width + queries)):
                images = row.numbers[chosen]
                kinds = np.where(images > 0, Kind.IMAGE, Kind.TEXT)
                table[:, number, end - len(chosen) : end] = np.stack(
                    [row.ids[chosen], kinds, chosen + row.start, images]
                )
        return Known(torch.from_numpy(table).to(self.model.device), moved=width > 0)


@dataclass(frozen=True)
class _Row:
    """The tokens of a part.

    Attributes:
        ids: of all.
        start: place of the first in the sequence.
        numbers: image of each, see ``Known.images``.
        reused: which come from the image cache.
        run: which are run.
        entries: of the images that are reused.
        pictures: the images that are run.
    """

    ids: Ints
    start: int
    numbers: Ints
    reused: Ints
    run: Ints
    entries: Sequence[ImageEntry]
    pictures: Sequence[Picture]

    def placed(self) -> Iterator[tuple[int, ImageEntry]]:
        """Each entry with the number of reused tokens before it."""
        first = 0
        for entry in self.entries:
            yield first, entry
            first += entry.tokens


def run(model: TriptychForConditionalGeneration, step: Step, cache: GrowingCache) -> Tensor:
    """Run a pass; return the logits (B, vocabulary) of the next token of each row."""
    output = model(**step.arguments(), past_key_values=cache, use_cache=True, logits_to_keep=1)
    return cast(Tensor, output.logits)[:, -1]
