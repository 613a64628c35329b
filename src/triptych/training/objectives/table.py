"""From an objective's spec to the objective of a stage."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from triptych.errors import RecipeError
from triptych.training.engines.base import Engine
from triptych.training.objectives.base import Objective
from triptych.training.objectives.dpo import Dpo, Reference
from triptych.training.objectives.experts import find_experts
from triptych.training.objectives.reference import AdapterOff, Stored
from triptych.training.objectives.sft import Sft
from triptych.training.objectives.spec import DpoObjective
from triptych.training.parts import set_modes, stage_parts
from triptych.training.stages import StageSpec

if TYPE_CHECKING:
    from triptych.model.modeling import TriptychForConditionalGeneration


def make_objective(
    model: "TriptychForConditionalGeneration",
    stage: StageSpec,
    engine: Engine,
    *,
    precision: str,
    path: Path,
    fingerprint: str | None,
) -> Objective:
    """Make the objective of a stage.

    Args:
        model: the model.
        stage: the stage.
        engine: what the stage runs on.
        precision: of forward passes.
        path: where stored log-probabilities go.
        fingerprint: of ``model`` before the stage, where ``needs_fingerprint``.
    """
    spec, language = stage.objective, stage.train.language
    config = model.config.get_text_config()
    experts = find_experts(config, spec.router_weight, trains=language.mode != "frozen")
    if not isinstance(spec, DpoObjective):
        return Sft(experts)

    @contextmanager
    def evaluating() -> Iterator[None]:
        model.eval()
        try:
            yield
        finally:
            set_modes(model, stage)

    reference: Reference = (
        AdapterOff(model, evaluating)
        if spec.reference == "adapter_off"
        else Stored(path, fingerprint, engine, precision, evaluating)
    )
    return Dpo(spec, reference, experts)


def needs_fingerprint(stage: StageSpec) -> bool:
    """Whether the objective must know the model that the stage begins with."""
    return isinstance(stage.objective, DpoObjective) and stage.objective.reference == "stored"


def check_objective(model: "TriptychForConditionalGeneration", stage: StageSpec) -> None:
    """Check, before anything is trained, that a stage's objective fits the model.

    Raises:
        RecipeError: adapters are to be switched off, but other parts train too; or a router loss
            is asked of a dense language model.
    """
    spec = stage.objective
    find_experts(model.config.get_text_config(), spec.router_weight, trains=True)
    if isinstance(spec, DpoObjective) and spec.reference == "adapter_off":
        for part in stage_parts(model, stage):
            if part.mode == "full" and part.parameters:
                raise RecipeError(
                    f"stage '{stage.name}': with reference 'adapter_off' only LoRA may train, but "
                    f"'{part.name}' trains too; freeze it, or take reference 'stored'"
                )
