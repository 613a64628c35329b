"""Applies a stage to a model: what is frozen, what trains, and with which learning rate."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from rich.table import Table
from torch import nn

from triptych.errors import RecipeError
from triptych.training.lora import add_lora, merge_lora, plain_name
from triptych.training.stages import OptimizerSpec, PartSpec, RunSpec, StageSpec
from triptych.training.tuning import TunedPartSpec

if TYPE_CHECKING:
    from triptych.model.modeling import TriptychForConditionalGeneration


@dataclass(frozen=True)
class Part:
    """A part of the model in one stage.

    Attributes:
        name: of the part.
        module: has its parameters.
        spec: how it trains.
        learning_rate: peak.
        apart: a module inside of it that is a part of its own.
    """

    name: str
    module: nn.Module
    spec: PartSpec | TunedPartSpec
    learning_rate: float
    apart: nn.Module | None = None

    @property
    def members(self) -> list[nn.Parameter]:
        """Its parameters, without those of the part inside of it."""
        others = set() if self.apart is None else {id(p) for p in self.apart.parameters()}
        return [p for p in self.module.parameters() if id(p) not in others]

    @property
    def mode(self) -> str:
        """`frozen`, `lora` or `full`."""
        if isinstance(self.spec, TunedPartSpec):
            return self.spec.mode
        return "full" if self.spec.train else "frozen"

    @property
    def parameters(self) -> int:
        """Parameters of the part, those that train and those that do not."""
        return sum(parameter.numel() for parameter in self.members)

    @property
    def training(self) -> int:
        """Parameters that the stage updates."""
        return sum(p.numel() for p in self.members if p.requires_grad)


def stage_parts(model: "TriptychForConditionalGeneration", stage: StageSpec) -> list[Part]:
    """The parts of ``model``, with what ``stage`` does to each."""
    train = stage.train

    def part(
        name: str,
        module: nn.Module,
        spec: PartSpec | TunedPartSpec,
        apart: nn.Module | None = None,
    ) -> Part:
        return Part(name, module, spec, spec.learning_rate or stage.learning_rate, apart)

    table = model.get_input_embeddings()
    alone = train.embeddings.train and train.language.mode != "full"
    return [
        *(part(name, tower, spec) for name, tower, spec in _tower_parts(model, stage)),
        part("connector", nn.ModuleList([model.connector, model.tile_tokens]), train.connector),
        *(part("fusion", one, train.fusion) for one in _fusion_parts(model)),
        part("new_tokens", model.new_tokens or nn.Module(), train.new_tokens),
        part("language", model.language_model, train.language, table if alone else None),
        *([part("embeddings", table, train.embeddings)] if alone else []),
    ]


def _fusion_parts(model: "TriptychForConditionalGeneration") -> list[nn.Module]:
    """What the fusion of a model trains: nothing, where it has no parameters."""
    modules = (model.cross_layers, model.stack_producer)
    return [one for one in modules if one is not None and list(one.parameters())]


def _tower_parts(
    model: "TriptychForConditionalGeneration", stage: StageSpec
) -> list[tuple[str, nn.Module, TunedPartSpec]]:
    """Name, module and spec of each tower."""
    given, towers = stage.train.towers, list(model.towers)
    specs = given if isinstance(given, tuple) else (given,) * len(towers)
    if len(specs) != len(towers):
        raise RecipeError(
            f"stage '{stage.name}': train.towers has {len(specs)} entries for {len(towers)} "
            "tower(s); give one for each tower, or one value for all"
        )
    names = [f"towers.{number}" for number in range(len(towers))] if len(towers) > 1 else ["towers"]
    return list(zip(names, towers, specs, strict=True))


def begin_stage(model: "TriptychForConditionalGeneration", stage: StageSpec) -> list[Part]:
    """Freeze everything, then unfreeze what ``stage`` trains and add its LoRA matrices.

    Frozen towers run in evaluation mode, so that their batch statistics stay as they are.

    Raises:
        RecipeError: the stage trains nothing, or a LoRA scope matches no layer.
    """
    model.requires_grad_(False)
    parts = stage_parts(model, stage)
    for part in parts:
        if isinstance(part.spec, TunedPartSpec) and part.mode == "lora":
            add_lora(part.module, part.spec, part.name)
        else:
            part.module.requires_grad_(part.mode == "full")
    set_modes(model, stage)
    if not any(part.training for part in parts):
        raise RecipeError(
            f"stage '{stage.name}' trains nothing: every part is frozen or has no parameters; set "
            "train.connector, train.language, train.new_tokens or train.towers"
        )
    return parts


def set_modes(model: "TriptychForConditionalGeneration", stage: StageSpec) -> None:
    """Put the model in training mode, but towers that do not train in evaluation mode."""
    model.train()
    model.towers.train(stage.train.trains_towers)
    for _, tower, spec in _tower_parts(model, stage):
        tower.train(spec.trains)


def end_stage(model: "TriptychForConditionalGeneration") -> list[str]:
    """Merge LoRA matrices, if there are any; returns the full names of the weights merged into."""
    return merge_lora(model)


def trained_names(parts: Sequence[Part], model: nn.Module) -> set[str]:
    """Plain names of everything ``model`` changes in this stage: parameters and running buffers."""
    names = {plain_name(name) for name, p in model.named_parameters() if p.requires_grad}
    full = {id(b) for part in parts if part.mode == "full" for b in part.module.buffers()}
    saved = model.state_dict().keys()
    return names | {n for n, b in model.named_buffers() if id(b) in full and n in saved}


def parameter_groups(parts: Sequence[Part], weight_decay: float) -> list[dict[str, Any]]:
    """Groups for AdamW: per part, matrices with weight decay and the rest without.

    Each group carries ``part`` and ``peak``, the learning rate that the schedule scales.
    """
    groups = []
    for part in parts:
        trained = [p for p in part.members if p.requires_grad]
        matrices = [p for p in trained if p.ndim > 1]
        others = [p for p in trained if p.ndim <= 1]
        for parameters, decay in ((matrices, weight_decay), (others, 0.0)):
            if parameters:
                groups.append(
                    {
                        "params": parameters,
                        "lr": part.learning_rate,
                        "weight_decay": decay,
                        "part": part.name,
                        "peak": part.learning_rate,
                    }
                )
    return groups


def make_optimizer(parts: Sequence[Part], spec: OptimizerSpec) -> torch.optim.AdamW:
    """AdamW over what trains in ``parts``."""
    groups = parameter_groups(parts, spec.weight_decay)
    return torch.optim.AdamW(groups, betas=spec.betas, eps=spec.eps, fused=True)


def ready_for_run(
    model: "TriptychForConditionalGeneration", run: RunSpec, stages: Sequence[StageSpec]
) -> None:
    """Hold a model as a run does before its first stage."""
    set_precision(model, run, stages)
    if run.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.tiles_at_once = run.tower_tiles


def set_precision(
    model: "TriptychForConditionalGeneration", run: RunSpec, stages: Sequence[StageSpec]
) -> None:
    """Store in float32 what some stage trains in full, and the rest as the run's precision says."""
    model.float()
    if run.precision == "bf16":
        cast_frozen(model, stages, torch.bfloat16)


def cast_frozen(
    model: "TriptychForConditionalGeneration", stages: Sequence[StageSpec], dtype: torch.dtype
) -> None:
    """Store in ``dtype`` the parts that no stage trains in full, to save memory.

    LoRA bases are among them: merging goes back to float32. Buffers that are not saved, such as
    the frequencies of rotary positions, are as exact as they were.
    """
    full: set[int] = set()
    for stage in stages:
        for part in stage_parts(model, stage):
            if part.mode == "full":
                full |= {id(tensor) for tensor in (*part.members, *part.module.buffers())}
    saved = model.state_dict().keys()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in saved}
    for tensor in (*model.parameters(), *buffers.values()):
        if id(tensor) not in full and tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)


def parameter_table(stage: StageSpec, parts: Sequence[Part], steps: int) -> Table:
    """Table of parts: parameters, how many train, how, and the peak learning rate."""
    table = Table(title=f"stage '{stage.name}': {steps} steps", title_justify="left")
    for heading in ("part", "parameters", "training", "mode", "learning rate"):
        table.add_column(heading, justify="left" if heading in ("part", "mode") else "right")
    for part in parts:
        rate = f"{part.learning_rate:g}" if part.training else "-"
        mode = part.mode if part.training or part.mode == "frozen" else "no parameters"
        table.add_row(part.name, f"{part.parameters:,}", f"{part.training:,}", mode, rate)
    total, training = sum(p.parameters for p in parts), sum(p.training for p in parts)
    share = f"{100 * training / max(total, 1):.1f} %"
    table.add_row("all", f"{total:,}", f"{training:,}", share, "", style="bold")
    return table
