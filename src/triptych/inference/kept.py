"""KeptCache: the keys and values of a conversation, kept between rounds.

Shape suffixes: B = 1.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from triptych.inference.engine import Engine
from triptych.inference.growing import make_cache
from triptych.inference.prefill import Known, Part, Step, run
from triptych.inference.vision import Picture


class KeptCache:
    """Holds the first tokens of a sequence that grows.

    Args:
        engine: the model.

    Attributes:
        latest: what the latest pass ran and reused; None before the first.
    """

    def __init__(self, engine: Engine) -> None:
        self.latest: Step | None = None
        self._engine = engine
        self.clear()

    @property
    def tokens(self) -> int:
        """How many of the first tokens are in the cache."""
        return self._known.kinds.shape[1]

    def clear(self) -> None:
        """Forget all tokens."""
        self._cache = make_cache(self._engine.model)
        self._known = Known.nothing(1, self._engine.model.device)

    def crop(self, tokens: int) -> None:
        """Keep at most the first ``tokens``; fewer, where an image stands before earlier text."""
        kept = self._known.complete(min(tokens, self.tokens))
        if kept < self.tokens:
            self._cache.crop(kept - self.tokens)
            self._known = self._known.head(kept)

    def run(self, ids: Sequence[int], images: Sequence[tuple[tuple[int, int], Picture]]) -> Tensor:
        """Bring the cache up to the whole sequence; return the logits (1, vocabulary) that follow.

        Args:
            ids: the whole sequence.
            images: spans of all its images, with the images.
        """
        first = self.tokens
        unseen = [picture for (start, _), picture in images if start >= first]
        complete = False
        try:
            with self._engine.evaluating(), torch.no_grad():
                step = self._engine.prefiller.prepare(
                    [Part(ids[first:], first, unseen)], self._cache, self._known
                )
                logits = run(self._engine.model, step, self._cache)
            complete = True
        finally:
            if not complete:  # some layers may have taken the tokens and others not
                self.clear()
        self._known, self.latest = step.known, step
        return logits
