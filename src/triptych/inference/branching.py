"""Greedy decoding of prompts that share stems (see stems.py).

Shape suffixes: N branches (rows), K tokens of a row.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from triptych.attention import Kind
from triptych.inference.growing import GrowingCache, make_cache
from triptych.inference.prefill import Known, Part, Prefiller, Step, run
from triptych.inference.requests import Request
from triptych.inference.stems import Stem


def decode_branches(
    prefiller: Prefiller,
    requests: Sequence[Request],
    stems: Sequence[Stem],
    *,
    stop_ids: frozenset[int],
    max_new_tokens: int,
) -> tuple[dict[int, list[int]], list[Step]]:
    """Greedy answers of one batch of stems.

    Returns:
        Request index -> generated ids, the end token included where it came; and the passes that
        ran before the answers began.
    """
    rows = _Rows(prefiller, requests, stems)
    cache, begin = rows.run_stems()
    logits, step = rows.run_extras(cache, begin.known)
    return rows.decode(cache, step.known.kinds, logits, stop_ids, max_new_tokens), [begin, step]


class _Rows:
    """The branches of a batch as rows of tensors."""

    def __init__(
        self, prefiller: Prefiller, requests: Sequence[Request], stems: Sequence[Stem]
    ) -> None:
        self.prefiller = prefiller
        self.model = prefiller.model
        self.requests = requests
        self.stems = stems
        self.members = [index for stem in stems for index in stem.members]
        self.cuts = [cut for stem in stems for cut in stem.cuts]
        self.parents = [row for row, stem in enumerate(stems) for _ in stem.members]

    def run_stems(self) -> tuple[GrowingCache, Step]:
        """Run each stem once; return its cache spread over the branches, and what it ran."""
        cache = make_cache(self.model)
        device = self.model.device
        parts = [self._part(stem.prompt, 0, stem.length) for stem in self.stems]
        step = self.prefiller.prepare(parts, cache, Known.nothing(len(parts), device))
        run(self.model, step, cache)
        cache.batch_select_indices(torch.tensor(self.parents, device=device))
        return cache, step

    def run_extras(self, cache: GrowingCache, stems: Known) -> tuple[Tensor, Step]:
        """Run what each branch adds to its part of a stem; return the last logits."""
        device = self.model.device
        branches = stems.select(torch.tensor(self.parents, device=device))
        known = branches.before(torch.tensor(self.cuts, device=device))
        parts = [
            self._part(index, cut, self.requests[index].length)
            for index, cut in zip(self.members, self.cuts, strict=True)
        ]
        step = self.prefiller.prepare(parts, cache, known)
        return run(self.model, step, cache), step

    def decode(
        self,
        cache: GrowingCache,
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

    def _part(self, index: int, start: int, stop: int) -> Part:
        """Tokens of a prompt with the images whose spans lie in them."""
        request = self.requests[index]
        pictures = [
            picture
            for span, picture in zip(request.prompt.spans, request.pictures, strict=True)
            if start <= span[0] and span[1] <= stop
        ]
        return Part(request.prompt.input_ids[start:stop], start, pictures)
