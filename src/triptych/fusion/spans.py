"""Where visual tokens sit, checked against how many there are.

Shape suffixes: B batch, S sequence, I images.
"""

import torch
from torch import Tensor

from triptych.errors import SpanError


def check_spans(
    placeholders: Tensor, tokens_per_image: list[int], images_per_sample: list[int]
) -> None:
    """Verify that every sample has one unbroken run of placeholders per image, of its length.

    Runs of images that follow each other directly are told apart by the lengths.

    Args:
        placeholders: bool (B, S), True where a visual token belongs.
        tokens_per_image: visual tokens of each image of the batch, in order of appearance.
        images_per_sample: images of each sample; sums to ``len(tokens_per_image)``.

    Raises:
        SpanError: names the sample, the image, and the expected and found number of tokens.
    """
    if len(images_per_sample) != placeholders.shape[0]:
        raise SpanError(
            f"images_per_sample has {len(images_per_sample)} entries for a batch of "
            f"{placeholders.shape[0]} samples"
        )
    if sum(images_per_sample) != len(tokens_per_image):
        raise SpanError(
            f"the samples claim {sum(images_per_sample)} images in all, but the features of "
            f"{len(tokens_per_image)} images were given"
        )
    first = 0
    for sample, images in enumerate(images_per_sample):
        positions = placeholders[sample].nonzero().flatten()
        _check_sample(sample, positions, tokens_per_image[first : first + images])
        first += images


def _check_sample(sample: int, positions: Tensor, expected: list[int]) -> None:
    """Compare the placeholder ``positions`` of one sample with its images' lengths."""
    start = 0
    for image, length in enumerate(expected):
        span = positions[start : start + length]
        steps = torch.diff(span)
        found = int((steps != 1).nonzero()[0]) + 1 if bool((steps != 1).any()) else len(span)
        if found != length:
            raise SpanError(
                f"sample {sample}, image {image + 1}: expected {length} placeholders in a row, "
                f"found {found}; the text was truncated or its images were changed after the "
                "processor counted them"
            )
        start += length
    if start != len(positions):
        raise SpanError(
            f"sample {sample}: expected {start} placeholders for {len(expected)} image(s), found "
            f"{len(positions)}; more image placeholders in the text than images given"
        )
