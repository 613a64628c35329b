"""Direct preference optimisation (Rafailov et al., 2023) of answers about images.

A micro-batch holds P pairs as 2 P conversations, or as 2 P documents of a packed row: chosen,
rejected, chosen, rejected, ... Only the tokens of the last answers are supervised.

Shape suffixes: B batch, S sequence, N supervised tokens, K vocabulary, P pairs.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from triptych.language.head import IGNORE
from triptych.training.objectives.base import Batch, Loss, Once, Totals
from triptych.training.objectives.experts import Experts
from triptych.training.objectives.spec import DpoObjective

KEYS = "pair_keys"
MEASURES = ("reward_chosen", "reward_rejected", "preferred", "logp_chosen", "logp_rejected")


class LogProbs(NamedTuple):
    """Log-probabilities of the chosen and of the rejected answers: (P,) each, fp32."""

    chosen: Tensor
    rejected: Tensor


class PairLoss(NamedTuple):
    """Of each pair (P,): the loss, and the implicit rewards of both answers."""

    loss: Tensor
    chosen: Tensor
    rejected: Tensor


class Reference(Protocol):
    """Knows how likely the answers were to the model of the stage's beginning."""

    def begin(self, module: nn.Module, data: Once, *, resumed: bool) -> None:
        """Prepare, on all ranks together."""
        ...

    def look_up(self, module: nn.Module, inputs: Batch, keys: Tensor) -> LogProbs:
        """Log-probabilities of the pairs with these ``keys`` (P,), without a gradient."""
        ...


def dpo_loss(
    policy: LogProbs, reference: LogProbs, *, beta: float, label_smoothing: float = 0.0
) -> PairLoss:
    """The loss of each pair.

    With r = beta (log pi - log ref) of an answer and d = r_chosen - r_rejected, the loss is
    -(1 - e) log sigmoid(d) - e log sigmoid(-d), where e is the label smoothing. Two answers as
    likely as to the reference cost log 2.
    """
    chosen = beta * (policy.chosen - reference.chosen)
    rejected = beta * (policy.rejected - reference.rejected)
    right, wrong = F.logsigmoid(chosen - rejected), F.logsigmoid(rejected - chosen)
    return PairLoss(-(1 - label_smoothing) * right - label_smoothing * wrong, chosen, rejected)


def answer_logprobs(logits: Tensor, batch: Batch, pairs: int) -> LogProbs:
    """Log-probabilities of whole answers, summed over their tokens in fp32.

    Args:
        logits: (N, K) at the supervised positions in row-major order.
        batch: with ``labels`` (B, S) and, where packed, ``document_ids`` (1, S) from 1.
        pairs: their number P.
    """
    targets = batch["labels"][:, 1:]
    tokens = -F.cross_entropy(logits.float(), targets[targets != IGNORE], reduction="none")
    sums = tokens.new_zeros(2 * pairs).index_add(0, _answer_of_tokens(batch), tokens)
    return LogProbs(sums[0::2], sums[1::2])


def chosen_lengths(batch: Batch, pairs: int) -> Tensor:
    """Supervised tokens (P,) of the chosen answers."""
    return torch.bincount(_answer_of_tokens(batch), minlength=2 * pairs)[0::2]


def _answer_of_tokens(batch: Batch) -> Tensor:
    """The answer (N,) that each supervised token belongs to, from 0."""
    targets = batch["labels"][:, 1:]
    mask = targets != IGNORE
    if "document_ids" in batch:
        return (batch["document_ids"][:, 1:] - 1)[mask]
    rows = torch.arange(len(targets), device=targets.device)
    return rows[:, None].expand_as(targets)[mask]


class Dpo:
    """DPO over the pairs of the global batch.

    Args:
        spec: its settings.
        reference: the model that answers are compared with.
        experts: of a mixture of experts; None where the language model is dense.
    """

    def __init__(
        self, spec: DpoObjective, reference: Reference, experts: Experts | None = None
    ) -> None:
        self.spec, self.reference, self.experts = spec, reference, experts

    def items(self, batch: Batch) -> int:
        """Pairs of a micro-batch."""
        return len(batch[KEYS])

    def begin(self, module: nn.Module, data: Once, *, resumed: bool) -> None:
        self.reference.begin(module, data, resumed=resumed)

    def loss(self, module: nn.Module, batch: Batch, totals: Totals) -> Loss:
        inputs = {name: value for name, value in batch.items() if name != KEYS}
        keys = batch[KEYS]
        before = self.reference.look_up(module, inputs, keys)
        asked = {} if self.experts is None else self.experts.arguments
        output = module(**inputs, **asked, use_cache=False)
        value, sums = self._of_pairs(output.logits, inputs, before, totals)
        if self.experts is not None:
            routed = self.experts.loss(output, batch["attention_mask"], totals)
            value, sums = value + routed.value, torch.cat([sums, routed.sums])
        return Loss(value, sums)

    def report(self, sums: Sequence[float], items: int) -> dict[str, object]:
        end = 1 + len(MEASURES)
        means = [one / max(items, 1) for one in sums[1:end]]
        entry: dict[str, object] = dict(zip(MEASURES, means, strict=True))
        entry["reward_margin"] = means[0] - means[1]
        return entry if self.experts is None else entry | self.experts.report(sums[end:])

    def _of_pairs(
        self, logits: Tensor, inputs: Batch, before: LogProbs, totals: Totals
    ) -> tuple[Tensor, Tensor]:
        """Share of the loss, and the sums of the loss and of ``MEASURES``."""
        pairs = len(before.chosen)
        if not pairs:
            nothing = torch.zeros(1 + len(MEASURES), dtype=torch.float64, device=logits.device)
            return logits.float().sum(), nothing
        now = answer_logprobs(logits, inputs, pairs)
        found = dpo_loss(
            now, before, beta=self.spec.beta, label_smoothing=self.spec.label_smoothing
        )
        loss = found.loss
        if self.spec.sft_weight:
            loss = loss - self.spec.sft_weight * now.chosen / chosen_lengths(inputs, pairs)
        preferred = found.chosen > found.rejected
        measured = (loss, found.chosen, found.rejected, preferred, now.chosen, now.rejected)
        sums = torch.stack([one.detach().double().sum() for one in measured])
        return loss.sum() / totals.items, sums
