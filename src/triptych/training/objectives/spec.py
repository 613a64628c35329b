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


class AlignObjective(Spec):
    """Visual tokens become like the words of the answer, before the language model reads them.

    The mean visual token of an image is drawn to the mean input embedding of its answer, and away
    from those of the other samples of the micro-batch (InfoNCE both ways, as in CLIP and in the
    first stage of BLIP-2). The language model does not run.
    """

    kind: Literal["align"] = "align"
    """Names this objective."""

    temperature: PositiveFloat = 0.07
    """Divides the cosine similarities."""

    distance_weight: NonNegativeFloat = 1.0
    """Weight of the squared distance between the two means, as a share of the answer's distance
    from the mean embedding, which brings visual tokens to the size of embeddings."""

    @property
    def router_weight(self) -> None:
        """There is no router loss: the language model does not run."""
        return None


ObjectiveSpec: TypeAlias = Annotated[
    SftObjective | DpoObjective | AlignObjective, Field(discriminator="kind")
]
