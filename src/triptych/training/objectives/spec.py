"""What a stage minimises: the specs of the objectives."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, NonNegativeFloat, PositiveFloat

from triptych.spec import Spec


class SftObjective(Spec):
    """Next-token cross-entropy of the supervised tokens."""

    kind: Literal["sft"] = "sft"
    """Names this objective."""

    router_weight: NonNegativeFloat | None = None
    """Weight of the load-balancing loss of a mixture of experts; by default the language model's
    own (`router_aux_loss_coef`) where it trains, else 0."""


class DpoObjective(Spec):
    """Direct preference optimisation (Rafailov et al., 2023) of chosen over rejected answers."""

    kind: Literal["dpo"] = "dpo"
    """Names this objective."""

    beta: PositiveFloat = 0.1
    """How strongly the model is held to the reference: larger stays nearer."""

    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Probability that a preference is the wrong way round (conservative DPO, Mitchell 2023)."""

    sft_weight: NonNegativeFloat = 0.0
    """Weight of the chosen answer's cross-entropy, a mean over its tokens, beside the preference
    (Pang et al., 2024; TRL's loss types `sigmoid` and `sft`). Without it chosen answers too may
    become less likely, as long as the rejected ones lose more."""

    reference: Literal["stored", "adapter_off"] = "stored"
    """The model of the stage's beginning: `stored`, its log-probabilities are computed once, before
    the first step; `adapter_off`, in every step with the LoRA matrices switched off."""

    router_weight: NonNegativeFloat | None = None
    """Weight of the load-balancing loss of a mixture of experts; by default the language model's
    own (`router_aux_loss_coef`) where it trains, else 0."""


ObjectiveSpec: TypeAlias = Annotated[SftObjective | DpoObjective, Field(discriminator="kind")]
