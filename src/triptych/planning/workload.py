"""What a plan assumes of the data: the samples of a micro-batch.

Shape suffixes: B batch, S sequence, I images, T tiles.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from triptych.data.spec import BatchSpec
from triptych.errors import ContextError, RecipeError
from triptych.fusion import CrossFusion
from triptych.images.count import image_tokens, sequence_tokens
from triptych.images.plan import TilePlan, plan_tiles
from triptych.language.head import IGNORE
from triptych.planning.blueprint import Blueprint

Size = tuple[int, int]
DEFAULT_SIZE: Size = (640, 480)
DEFAULT_TEXT = 256


@dataclass(frozen=True)
class Sample:
    """A sample of the kind that is planned for.

    Attributes:
        sizes: width and height of its images in pixels.
        text: its other tokens, all of which count in the loss.
    """

    sizes: tuple[Size, ...] = (DEFAULT_SIZE,)
    text: int = DEFAULT_TEXT


@dataclass(frozen=True)
class Workload:
    """A sample measured with the tiling of a model.

    Attributes:
        sample: the sample.
        plans: tiles of its images.
        visual: visual tokens of each image.
        inside: tokens of the sequence that each image takes.
    """

    sample: Sample
    plans: tuple[TilePlan, ...]
    visual: tuple[int, ...]
    inside: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Tokens of the sequence."""
        return sum(self.inside) + self.sample.text

    @property
    def tiles(self) -> int:
        """Tiles that are encoded."""
        return sum(plan.tiles for plan in self.plans)

    def rows(self, batch: BatchSpec) -> int:
        """Samples of a micro-batch within its budgets, at least one."""
        bounds = [batch.tokens // self.tokens]
        if self.tiles:
            bounds.append(batch.tiles // self.tiles)
        if batch.samples is not None:
            bounds.append(batch.samples)
        return max(1, min(bounds))

    def batch(self, blueprint: Blueprint, rows: int, *, encoded: bool) -> dict[str, Tensor]:
        """A micro-batch of ``rows`` equal samples.

        Ids and labels are real and on the CPU; tiles, or the features of tiles that are
        ``encoded`` already, are on the meta device.
        """
        first = 1
        ids = torch.zeros(rows, self.tokens, dtype=torch.long)
        labels = torch.zeros_like(ids)
        for tokens in self.inside:
            ids[:, first : first + tokens] = blueprint.image_token
            labels[:, first : first + tokens] = IGNORE
            first += tokens
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
        if not self.plans:
            return inputs
        panels, tiles = blueprint.panels, rows * self.tiles
        if encoded:
            shape = (tiles, *panels.feature_shape)
            inputs["tile_features"] = torch.empty(shape, device="meta")
        else:
            inputs["pixel_values"] = pixels(tiles, panels.tile_size)
        sizes = [list(size) for size in self.sample.sizes]
        return inputs | {
            "tiles_per_image": torch.tensor([plan.tiles for plan in self.plans] * rows),
            "images_per_sample": torch.tensor([len(self.plans)] * rows),
            "image_sizes": torch.tensor(sizes * rows),
        }


def pixels(tiles: int, side: int) -> Tensor:
    """Tiles (T, 3, S, S) on the meta device."""
    return torch.empty(tiles, 3, side, side, dtype=torch.uint8, device="meta")


def measure(blueprint: Blueprint, sample: Sample, max_tokens: int) -> Workload:
    """Measure a sample.

    Raises:
        RecipeError: it has no text.
        ContextError: it is longer than ``max_tokens``.
    """
    if sample.text < 2:
        raise RecipeError(f"--text {sample.text}: a sample needs at least 2 tokens of text")
    panels = blueprint.panels
    plans = tuple(
        plan_tiles(*size, panels.tile_size, panels.tiling, panels.zoom) for size in sample.sizes
    )
    visual = tuple(image_tokens(plan, panels.layout) for plan in plans)
    outside = isinstance(panels.fusion, CrossFusion)
    inside = tuple(sequence_tokens(one, outside=outside) for one in visual)
    workload = Workload(sample, plans, visual, inside)
    if workload.tokens > max_tokens:
        raise ContextError(
            f"a sample of {len(plans)} image(s) has {workload.tokens} tokens ({sum(inside)} of "
            f"images, {sample.text} of text), but data.max_tokens is {max_tokens}; plan with fewer "
            "or smaller images (--image WIDTHxHEIGHT), with less --text, or raise data.max_tokens"
        )
    return workload
