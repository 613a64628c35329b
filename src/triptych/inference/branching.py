"""Greedy decoding of prompts that share stems (see stems.py).

Shape suffixes: R stems, N branches (rows), S tokens of the longest stem, E extra tokens, B batch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from triptych.attention import Kind
from triptych.inference.requests import Request
from triptych.inference.stems import Stem
from triptych.inference.vision import VisionCache, image_inputs
from triptych.model.modeling import TriptychForConditionalGeneration


def decode_branches(
    model: TriptychForConditionalGeneration,
    vision: VisionCache,
    requests: Sequence[Request],
    stems: Sequence[Stem],
    *,
    stop_ids: frozenset[int],
    max_new_tokens: int,
    pad_id: int,
) -> dict[int, list[int]]:
    """Greedy answers of one batch of stems.

    Returns:
        Request index -> generated ids, the end token included where it came.
    """
    rows = _Rows(model, vision, requests, stems, pad_id)
    cache, stem_kinds = rows.run_stems()
    logits, kinds = rows.run_extras(cache, stem_kinds)
    return rows.decode(cache, kinds, logits, stop_ids, max_new_tokens)


class _Rows:
    """The branches of a batch as rows of tensors."""

    def __init__(
        self,
        model: TriptychForConditionalGeneration,
        vision: VisionCache,
        requests: Sequence[Request],
        stems: Sequence[Stem],
        pad_id: int,
    ) -> None:
        self.model = model
        self.vision = vision
        self.requests = requests
        self.stems = stems
        self.pad_id = pad_id
        self.members = [index for stem in stems for index in stem.members]
        self.cuts = [cut for stem in stems for cut in stem.cuts]
        self.parents = [row for row, stem in enumerate(stems) for _ in stem.members]

    def run_stems(self) -> tuple[DynamicCache, Tensor]:
        """Run each stem once; return its cache spread over the branches, and token kinds (N, S)."""
        size = max(stem.length for stem in self.stems)
        parts = [(stem.prompt, 0, stem.length) for stem in self.stems]
        ids = self._ids(parts, size, left=False)
        mask = self._mask([stem.length for stem in self.stems], size)
        cache = DynamicCache()
        self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=self._positions([0] * len(parts), size),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            **self._images(parts),
        )
        parents = torch.tensor(self.parents, device=self.model.device)
        cache.batch_select_indices(parents)
        return cache, self.model.find_token_kinds(ids[parents], self._mask(self.cuts, size))

    def run_extras(self, cache: DynamicCache, stem_kinds: Tensor) -> tuple[Tensor, Tensor]:
        """Run what each branch adds, padded on the left; return last logits and kinds (N, S+E)."""
        parts = [
            (index, cut, self.requests[index].length)
            for index, cut in zip(self.members, self.cuts, strict=True)
        ]
        extras = [stop - start for _, start, stop in parts]
        size = max(extras)
        ids = self._ids(parts, size, left=True)
        extra_kinds = self.model.find_token_kinds(ids, self._mask(extras, size).flip(1))
        kinds = torch.cat([stem_kinds, extra_kinds], 1)
        begins = [cut - (size - extra) for cut, extra in zip(self.cuts, extras, strict=True)]
        output = self.model(
            input_ids=ids,
            attention_mask=(kinds != Kind.PAD).long(),
            token_kinds=kinds,
            position_ids=self._positions(begins, size).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            **self._images(parts),
        )
        return output.logits[:, -1], kinds

    def decode(
        self,
        cache: DynamicCache,
        kinds: Tensor,
        logits: Tensor,
        stop_ids: frozenset[int],
        max_new_tokens: int,
    ) -> dict[int, list[int]]:
        """Extend every row until it ends; rows that have ended leave the batch."""
        device = self.model.device
        answers: dict[int, list[int]] = {index: [] for index in self.members}
        active = list(self.members)
        positions = torch.tensor([self.requests[index].length for index in active], device=device)
        for step in range(max_new_tokens):
            tokens = logits.argmax(-1)
            for index, token in zip(active, tokens.tolist(), strict=True):
                answers[index].append(token)
            rows = [row for row, index in enumerate(active) if answers[index][-1] not in stop_ids]
            if not rows or step == max_new_tokens - 1:
                break
            if len(rows) < len(active):
                keep = torch.tensor(rows, device=device)
                cache.batch_select_indices(keep)
                active = [active[row] for row in rows]
                tokens, kinds, positions = tokens[keep], kinds[keep], positions[keep]
            kinds = torch.cat([kinds, torch.full_like(kinds[:, :1], Kind.TEXT)], 1)
            output = self.model(
                input_ids=tokens[:, None],
                attention_mask=(kinds != Kind.PAD).long(),
                token_kinds=kinds,
                position_ids=positions[:, None],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            logits = output.logits[:, -1]
            positions = positions + 1
        return answers

    def _ids(self, parts: Sequence[tuple[int, int, int]], size: int, *, left: bool) -> Tensor:
        rows = []
        for index, start, stop in parts:
            ids = self.requests[index].prompt.input_ids[start:stop]
            padding = [self.pad_id] * (size - len(ids))
            rows.append(padding + ids if left else ids + padding)
        return torch.tensor(rows, device=self.model.device)

    def _mask(self, lengths: Sequence[int], size: int) -> Tensor:
        ends = torch.tensor(lengths, device=self.model.device)
        places = torch.arange(size, device=self.model.device)
        return (places[None] < ends[:, None]).long()

    def _positions(self, begins: Sequence[int], size: int) -> Tensor:
        starts = torch.tensor(begins, device=self.model.device)
        return starts[:, None] + torch.arange(size, device=self.model.device)

    def _images(self, parts: Sequence[tuple[int, int, int]]) -> dict[str, Tensor]:
        """Features of the images whose spans lie in each part."""
        pictures = [
            [
                picture
                for span, picture in zip(request.prompt.spans, request.pictures, strict=True)
                if start <= span[0] and span[1] <= stop
            ]
            for request, start, stop in ((self.requests[i], a, b) for i, a, b in parts)
        ]
        features = iter(self.vision.features([one for row in pictures for one in row]))
        return image_inputs([[next(features) for _ in row] for row in pictures], self.model.device)
