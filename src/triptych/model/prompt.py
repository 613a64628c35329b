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
    """

    input_ids: list[int]
    supervised: list[bool]
    spans: list[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.input_ids)


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
