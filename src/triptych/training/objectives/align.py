"""Contrastive alignment of visual tokens with the words of the answer.

A language model that cannot read its visual tokens learns to answer without them, and then needs
long to begin to look. Here the connector is trained before, at the cost of the connector alone:
InfoNCE (van den Oord et al., 2018) between images and texts, both ways, as in CLIP (Radford et al.,
2021) and in the first stage of BLIP-2 (Li et al., 2023), with the language model's own input
embeddings as the side of the texts.

Shape suffixes: B batch, S sequence, D width, P samples with one image and an answer.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from triptych.language.head import IGNORE
from triptych.training.objectives.base import Batch, Loss, Once, Totals
from triptych.training.objectives.spec import AlignObjective


def align_loss(
    images: Tensor, texts: Tensor, center: Tensor, *, temperature: float, distance_weight: float
) -> Tensor:
    """The loss (P,) of each sample.

    With cosine similarities s of the means relative to ``center``, over the temperature, it is half
    of -log softmax over the texts and half of it over the images, for the sample's own; samples
    with the same text share the target evenly. The squared distance of the two means is added.

    Args:
        images: (P, D), mean visual tokens.
        texts: (P, D), mean embeddings of the answers.
        center: (D,), what all embeddings have in common.
        temperature: divides the similarities.
        distance_weight: of the squared distance.
    """
    images, texts = images - center, texts - center
    scores = F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T / temperature
    same = (torch.cdist(texts, texts, compute_mode="donot_use_mm_for_euclid_dist") == 0).float()
    target = same / same.sum(1, keepdim=True)  # symmetric, because texts are the same both ways
    to_texts = -(target * F.log_softmax(scores, 1)).sum(1)
    to_images = -(target * F.log_softmax(scores, 0)).sum(0)
    apart = (images - texts).square().sum(1) / texts.square().sum(1).clamp_min(1e-12)
    return 0.5 * (to_texts + to_images) + distance_weight * apart


class Align:
    """Alignment over the samples of a micro-batch that have one image.

    Other samples count for nothing. The other samples of the micro-batch are what a sample is told
    apart from, so that here, unlike in other objectives, its size matters.

    Args:
        spec: its settings.
        image_token: id of the placeholder.
        ends: ids of supervised tokens that are no words, such as the end token.
        center: (D,), the mean input embedding.
    """

    def __init__(
        self, spec: AlignObjective, image_token: int, ends: Sequence[int], center: Tensor
    ) -> None:
        self.spec, self.image_token = spec, image_token
        self._ends = torch.tensor(list(ends), dtype=torch.long)
        self._center = center

    def items(self, batch: Batch) -> int:
        """Samples with one image and an answer."""
        return int(self._rows(batch).sum())

    def begin(self, module: nn.Module, data: Once, *, resumed: bool) -> None:
        return None

    def loss(self, module: nn.Module, batch: Batch, totals: Totals) -> Loss:
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        embeddings = module(**inputs, embed_only=True).inputs_embeds
        rows = self._rows(batch)
        if not bool(rows.any()):
            nothing = 0.0 * embeddings.float().sum()
            return Loss(nothing, nothing.detach().double().reshape(1))
        embeddings = embeddings[rows].float()
        losses = align_loss(
            _mean(embeddings, (batch["input_ids"] == self.image_token)[rows]),
            _mean(embeddings.detach(), self._words(batch)[rows]),
            self._center.to(embeddings.device),
            temperature=self.spec.temperature,
            distance_weight=self.spec.distance_weight,
        )
        total = losses.sum()
        return Loss(total / totals.items, total.detach().double().reshape(1))

    def report(self, sums: Sequence[float], items: int) -> dict[str, object]:
        return {}

    def _words(self, batch: Batch) -> Tensor:
        """The words of answers, a mask (B, S)."""
        labels = batch["labels"]
        return (labels != IGNORE) & ~torch.isin(labels, self._ends.to(labels.device))

    def _rows(self, batch: Batch) -> Tensor:
        """The samples that count, a mask (B,); each is a row of its own."""
        alone = batch["images_per_sample"] == 1
        return alone & self._words(batch).any(1)


def _mean(embeddings: Tensor, mask: Tensor) -> Tensor:
    """Mean (P, D) of those (P, S, D) that a mask (P, S) chooses."""
    weights = mask.to(embeddings.dtype)
    return torch.einsum("psd,ps->pd", embeddings, weights) / weights.sum(1, keepdim=True)
