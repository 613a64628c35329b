"""From an objective's spec to the objective of a stage."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from triptych.errors import RecipeError
from triptych.training.engines.base import Engine
from triptych.training.objectives.align import Align
from triptych.training.objectives.base import Objective
from triptych.training.objectives.dpo import Dpo, Reference
from triptych.training.objectives.experts import find_experts
from triptych.training.objectives.reference import AdapterOff, Stored
from triptych.training.objectives.sft import Sft
from triptych.training.objectives.spec import AlignObjective, DpoObjective
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
    if isinstance(spec, AlignObjective):
        return _make_align(model, spec)
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


def _make_align(model: "TriptychForConditionalGeneration", spec: AlignObjective) -> Align:
    table = model.get_input_embeddings().get_parameter("weight").detach()
    made = model.generation_config
    ends = None if made is None else made.eos_token_id
    ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
    return Align(spec, model.config.image_token_id, ends, table.float().mean(0))


def needs_fingerprint(stage: StageSpec) -> bool:
    """Whether the objective must know the model that the stage begins with."""
    return isinstance(stage.objective, DpoObjective) and stage.objective.reference == "stored"


def check_objective(
    model: "TriptychForConditionalGeneration", stage: StageSpec, *, packed: bool
) -> None:
    """Check, before anything is trained, that a stage's objective fits the model and its batches.

    Raises:
        RecipeError: a part trains that the objective does not reach, or must not change; visual
            tokens are to be aligned that are not in the sequence, or in packed rows; or a router
            loss is asked of a dense language model.
    """
    spec = stage.objective
    find_experts(model.config.get_text_config(), spec.router_weight, trains=True)
    trains = [
        one.name for one in stage_parts(model, stage) if one.mode == "full" and one.parameters
    ]
    if isinstance(spec, AlignObjective) and model.cross_layers is not None:
        raise RecipeError(
            f"stage '{stage.name}': objective 'align' needs visual tokens in the sequence, and "
            "fusion 'cross' keeps them outside; take objective 'sft'"
        )
    if isinstance(spec, AlignObjective) and packed:
        raise RecipeError(
            f"stage '{stage.name}': objective 'align' tells rows apart, so its batches cannot be "
            "packed; give the stage a batch with packed: false"
        )
    if isinstance(spec, AlignObjective) and "fusion" in trains:
        raise RecipeError(
            f"stage '{stage.name}': with objective 'align' the language model does not run, so "
            "nothing reaches 'fusion'; set train: {fusion: false}"
        )
    if isinstance(spec, DpoObjective) and spec.reference == "adapter_off" and trains:
        raise RecipeError(
            f"stage '{stage.name}': with reference 'adapter_off' only LoRA may train, but "
            f"'{trains[0]}' trains too; freeze it, or take reference 'stored'"
        )
