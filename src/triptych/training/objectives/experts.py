"""Mixtures of experts: the load-balancing loss of the router, and which experts are used.

Shape suffixes: B batch, S sequence, E experts, L layers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from triptych.errors import RecipeError
from triptych.model.output import TriptychOutput
from triptych.training.objectives.base import Loss, Totals


@dataclass(frozen=True)
class Experts:
    """The router loss of a language model with experts (Fedus et al., 2021, equations 4 to 6).

    With f the share of the choices that fall on an expert and p its mean router probability, over
    all layers and all tokens but padding, the loss is E sum(f p): the number of experts that a
    token goes to when all are used evenly. It is not a sum over tokens: that of a global batch is
    the mean over micro-batches, weighted by their tokens.

    Attributes:
        count: experts of a layer, E.
        chosen: experts that a token goes to.
        layers: layers with experts, L.
        weight: of the loss.
    """

    count: int
    chosen: int
    layers: int
    weight: float

    @property
    def arguments(self) -> Mapping[str, Any]:
        """What the forward pass is asked for."""
        return {"output_router_logits": True}

    def loss(self, output: TriptychOutput, mask: Tensor, totals: Totals) -> Loss:
        """The router loss of a micro-batch; its sums: loss, then tokens of each layer's experts.

        Args:
            output: with ``router_logits``, L of (B S, E).
            mask: (B, S), 0 where padded.
            totals: of the global batch.
        """
        logits = tuple(output.router_logits or ())
        if len(logits) != self.layers:
            raise RecipeError(
                f"the language model gave the router logits of {len(logits)} layers, expected "
                f"{self.layers}; its family is not known to work with a router loss"
            )
        share = mask.sum() / totals.tokens
        balance = load_balancing_loss_func(logits, self.count, self.chosen, mask)
        used = torch.stack([self._used(one.detach(), mask) for one in logits])
        sums = torch.cat([(balance.detach() * mask.sum()).double().reshape(1), used.flatten()])
        return Loss(self.weight * share * balance, sums)

    def report(self, sums: Sequence[float]) -> dict[str, object]:
        """The mean router loss, and of each layer the share of choices that each expert got."""
        used = torch.tensor(sums[1:], dtype=torch.float64).reshape(self.layers, self.count)
        tokens = max(float(used.sum()) / (self.layers * self.chosen), 1.0)
        shares = used / used.sum(1, keepdim=True).clamp(min=1)
        return {
            "router_loss": sums[0] / tokens,
            "expert_share": [[round(one, 4) for one in layer] for layer in shares.tolist()],
            "expert_share_max": float(shares.max()),
            "experts_unused": int((used == 0).sum()),
        }

    def _used(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Choices of each expert (E,) of a layer, padding left out."""
        best = logits.float().topk(self.chosen, dim=-1).indices
        kept = best[mask.reshape(-1).bool()].reshape(-1)
        return torch.bincount(kept, minlength=self.count).double()


def find_experts(config: PreTrainedConfig, weight: float | None, *, trains: bool) -> Experts | None:
    """The experts of a language model; None where it is dense.

    Args:
        config: of the language model.
        weight: of the router loss; None for the one in ``config`` where the language model
            trains, else 0.
        trains: whether the language model trains.

    Raises:
        RecipeError: a weight is given, but the language model is dense.
    """
    found = config.to_dict()
    count = found.get("num_local_experts") or found.get("num_experts")
    if not count:
        if weight:
            raise RecipeError(
                f"objective.router_weight is {weight:g}, but the language model "
                f"('{found['model_type']}') has no experts; leave it out"
            )
        return None
    own = float(found.get("router_aux_loss_coef") or 0.0) if trains else 0.0
    return Experts(
        count=int(count),
        chosen=int(found["num_experts_per_tok"]),
        layers=_layers(found),
        weight=own if weight is None else weight,
    )


def _layers(config: Mapping[str, Any]) -> int:
    """Layers that have experts: Qwen's may leave some dense."""
    every, dense = config.get("decoder_sparse_step") or 1, config.get("mlp_only_layers") or ()
    layers = range(int(config["num_hidden_layers"]))
    return sum(index not in dense and (index + 1) % every == 0 for index in layers)
