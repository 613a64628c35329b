"""The tokens of a conversation, and how several become one batch.

Shape suffixes: B batch, S sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from PIL import Image
from torch import Tensor

from triptych.errors import DataError
from triptych.language.head import IGNORE


@dataclass(frozen=True)
class Prompt:
    """The tokens of one conversation; its pixels are not needed for them.

    Attributes:
        input_ids: token ids, image placeholders expanded.
        supervised: for each token, whether it is in the loss.
        spans: [start, stop) of each image's visual tokens.
        sizes: width and height of each image in pixels.
    """

    input_ids: list[int]
    supervised: list[bool]
    spans: list[tuple[int, int]]
    sizes: list[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True)
class Skeleton:
    """The tokens of a conversation whose images are not measured yet.

    Attributes:
        ids: token ids; each image is one placeholder.
        supervised: for each token, whether it is in the loss.
        places: where the placeholders stand in ``ids``.
    """

    ids: list[int]
    supervised: list[bool]
    places: list[int]

    def length(self, costs: Sequence[int]) -> int:
        """Tokens of the conversation when image k costs ``costs[k]`` tokens."""
        return len(self.ids) - len(self.places) + sum(costs)

    @property
    def teaches(self) -> bool:
        """Whether a token other than the first, which has no prediction, is in the loss."""
        return any(self.supervised[1:])

    def expand(self, costs: Sequence[int], sizes: Sequence[tuple[int, int]]) -> Prompt:
        """Repeat the placeholder of image k, which has ``sizes[k]``, ``costs[k]`` times.

        Raises:
            DataError: the number of placeholders is not the number of costs.
        """
        if len(self.places) != len(costs):
            raise DataError(
                f"the messages have {len(self.places)} image part(s), but {len(costs)} image(s) "
                "were given"
            )
        ids: list[int] = []
        supervised: list[bool] = []
        spans: list[tuple[int, int]] = []
        last = 0
        for place, cost in zip(self.places, costs, strict=True):
            ids += self.ids[last:place]
            supervised += self.supervised[last:place]
            spans.append((len(ids), len(ids) + cost))
            ids += [self.ids[place]] * cost
            supervised += [False] * cost
            last = place + 1
        ids, supervised = ids + self.ids[last:], supervised + self.supervised[last:]
        return Prompt(ids, supervised, spans, list(sizes))


def pad_prompts(
    prompts: Sequence[Prompt], pad: int, side: Literal["left", "right"]
) -> dict[str, Tensor]:
    """Pad to the longest prompt: ids with ``pad``, mask with 0, labels with -100."""
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), longest), pad)
    mask = torch.zeros((len(prompts), longest), dtype=torch.long)
    labels = torch.full((len(prompts), longest), IGNORE)
    for row, prompt in enumerate(prompts):
        start = longest - len(prompt) if side == "left" else 0
        place = slice(start, start + len(prompt))
        tokens = torch.tensor(prompt.input_ids)
        ids[row, place] = tokens
        mask[row, place] = 1
        labels[row, place] = torch.where(torch.tensor(prompt.supervised), tokens, IGNORE)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def pack_prompts(prompts: Sequence[Prompt]) -> dict[str, Tensor]:
    """Join prompts into one row (1, S); ``document_ids`` number them from 1.

    The first token of each has no prediction, so it is in no loss, as in a row of its own.
    """
    ids = torch.cat([torch.tensor(prompt.input_ids) for prompt in prompts])
    kept = torch.cat([torch.tensor([False, *prompt.supervised[1:]]) for prompt in prompts])
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    documents = torch.arange(1, len(prompts) + 1).repeat_interleave(lengths)
    row = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": torch.where(kept, ids, IGNORE),
        "document_ids": documents,
    }
    return {name: values[None] for name, values in row.items()}


def nest_images(
    images: Image.Image | Sequence[Image.Image] | Sequence[Sequence[Image.Image]] | None,
    texts: int,
) -> list[list[Image.Image]]:
    """Bring the three accepted forms of ``images`` to one list per text."""
    if images is None:
        return [[] for _ in range(texts)]
    if isinstance(images, Image.Image):
        return [[images]]
    if all(isinstance(image, Image.Image) for image in images) and texts == 1:
        return [cast(list[Image.Image], list(images))]
    if len(images) != texts or any(isinstance(image, Image.Image) for image in images):
        raise DataError(
            f"{texts} texts need a list of {texts} lists of images, found {len(images)} entries"
        )
    return [list(row) for row in cast(Sequence[Sequence[Image.Image]], images)]
