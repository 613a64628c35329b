"""One training step of a stage on meta tensors: what it holds and computes.

Decoder layers are all alike, so a model of one layer and one of two say what any number costs.

Shape suffixes: B batch, T tiles.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers.modeling_layers import GradientCheckpointingLayer

from triptych.images.tiling import TilingSpec
from triptych.language.layers import decoder_layers
from triptych.model.modeling import TriptychForConditionalGeneration
from triptych.planning.blueprint import Blueprint
from triptych.planning.cost import Held, Phase, StepCost, deepen, extend
from triptych.planning.kernels import DeviceKernels
from triptych.planning.recorder import StepRecorder
from triptych.planning.workload import Workload, pixels
from triptych.training.parts import Part, begin_stage, ready_for_run
from triptych.training.stages import RunSpec, StageSpec


@dataclass(frozen=True)
class Setting:
    """What a step is run with.

    Attributes:
        blueprint: the model.
        stages: all of them, which decide together what is held in bfloat16.
        run: precision, checkpointing, tiles at once.
        gpu: plan for a GPU rather than a CPU.
    """

    blueprint: Blueprint
    stages: Sequence[StageSpec]
    run: RunSpec
    gpu: bool

    @property
    def tile_size(self) -> int:
        """Side of a tile in pixels."""
        return self.blueprint.panels.tile_size

    def with_tiling(self, tiling: TilingSpec | None) -> "Setting":
        """The same with another tiling, where one is given."""
        if tiling is None:
            return self
        panels = self.blueprint.panels.model_copy(update={"tiling": tiling})
        return replace(self, blueprint=replace(self.blueprint, panels=panels))

    def prepare(
        self, stage: StageSpec, layers: int | None = None
    ) -> tuple[TriptychForConditionalGeneration, list[Part]]:
        """The model as a run would begin ``stage`` with it, on the meta device."""
        model = self.load(layers)
        return model, self.begin(model, stage)

    def load(self, layers: int | None = None) -> TriptychForConditionalGeneration:
        """The model as a run would hold it before its first stage, on the meta device."""
        model = self.blueprint.build(layers)
        ready_for_run(model, self.run, self.stages)
        return model

    def begin(self, model: TriptychForConditionalGeneration, stage: StageSpec) -> list[Part]:
        """Begin a stage; its LoRA matrices have no memory either."""
        with torch.device("meta"):
            return begin_stage(model, stage)


def step_costs(
    setting: Setting,
    stage: StageSpec,
    workload: Workload,
    rows: Sequence[int],
    tile: StepCost | None,
) -> list[StepCost]:
    """Costs of forward and backward pass of micro-batches of so many samples.

    Args:
        setting: the model and how it runs.
        stage: what trains.
        workload: the sample.
        rows: samples of each micro-batch.
        tile: from ``encoding_cost``, where the towers are frozen: they hold nothing for the
            backward pass, and are not run again. None to run them as part of the step.
    """
    whole, depths = setting.blueprint.layers, setting.blueprint.shallow_depths()
    first, *others = (whole,) if depths is None else depths
    model, _ = setting.prepare(stage, first)
    ones = [_record(setting, model, workload, count, encoded=tile is not None) for count in rows]
    costs = [replace(one, bottom=one.peaks["layers"]) for one in ones]
    for second in others:
        model, _ = setting.prepare(stage, second)
        two = _record(setting, model, workload, rows[0], encoded=tile is not None)
        for number, (count, one) in enumerate(zip(rows, ones, strict=True)):
            deeper = deepen(ones[0], two, one, count / rows[0])
            between = second - first
            last = extend(one, deeper, (1 - first) / between).peaks["layers"]
            cost = extend(one, deeper, (whole - first) / between)
            costs[number] = replace(cost, bottom=last)
    if tile is None:
        return costs
    tiles = [count * workload.tiles for count in rows]
    return [_encoded(setting, cost, tile, n) for cost, n in zip(costs, tiles, strict=True)]


def encoding_cost(setting: Setting, model: TriptychForConditionalGeneration) -> StepCost:
    """Cost of encoding one tile in frozen towers."""
    given = pixels(1, model.tile_size)

    def run(kernels: DeviceKernels, recorder: StepRecorder) -> None:
        with torch.no_grad():
            model.encode_tiles(given)

    return _watch(setting, model, [given], run)


def _encoded(setting: Setting, step: StepCost, tile: StepCost, tiles: int) -> StepCost:
    """A step whose tiles are encoded first, those of one pass at a time."""
    given = pixels(tiles, setting.tile_size).nbytes
    peaks = {
        phase: replace(held, activations=held.activations + given)
        for phase, held in step.peaks.items()
    }
    together = min(tiles, setting.run.tower_tiles or tiles)
    encoding = Held(activations=tile.peaks["vision"].fleeting * together)
    peaks["vision"] = max(peaks["vision"], encoding, key=lambda held: held.fleeting)
    return replace(step, peaks=peaks, flops=step.flops + tile.flops * tiles)


def _record(
    setting: Setting,
    model: TriptychForConditionalGeneration,
    workload: Workload,
    rows: int,
    *,
    encoded: bool,
) -> StepCost:
    batch = workload.batch(setting.blueprint, rows, encoded=encoded)
    inputs = [tensor for tensor in batch.values() if tensor.is_meta]

    def run(kernels: DeviceKernels, recorder: StepRecorder) -> None:
        trained = [p for p in model.parameters() if p.requires_grad]
        handles = [p.register_post_accumulate_grad_hook(recorder.accumulated) for p in trained]
        handles += _mark_phases(decoder_layers(model.language_model), recorder)
        output = model(**batch, use_cache=False)
        kernels.end_forward()
        recorder.begin_backward()
        torch.autograd.backward(output.loss)
        for handle in handles:
            handle.remove()
        model.zero_grad(set_to_none=True)

    return _watch(setting, model, inputs, run)


def _mark_phases(layers: nn.ModuleList, recorder: StepRecorder) -> list[RemovableHandle]:
    """Tell the recorder when the decoder layers begin and end, forward and backward."""

    def tell(tensor: object, phase: Phase) -> None:
        if isinstance(tensor, torch.Tensor) and tensor.requires_grad:
            tensor.register_hook(lambda _: recorder.enter(phase))

    def begin(module: nn.Module, args: tuple[Any, ...]) -> None:
        recorder.enter("stack")
        tell(args[0], "tail")

    def end(module: nn.Module, args: object, output: object) -> None:
        recorder.enter("head")
        tell(output[0] if isinstance(output, tuple) else output, "layers")

    return [layers[0].register_forward_pre_hook(begin), layers[-1].register_forward_hook(end)]


def _watch(
    setting: Setting,
    model: TriptychForConditionalGeneration,
    inputs: Sequence[torch.Tensor],
    run: Callable[[DeviceKernels, StepRecorder], None],
) -> StepCost:
    known = [*model.parameters(), *model.buffers()]
    recorder = StepRecorder(known, setting.blueprint.vocabulary)
    half = setting.run.precision == "bf16"
    kernels = DeviceKernels(recorder, half=half, gpu=setting.gpu)
    # torch leaves function modes while it goes backward, but what is computed again there has to
    # take the same kernels.
    again = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    handles = [kernels.stay_in(module) for module in (*model.towers, *again)]
    recorder.hold(inputs)
    with kernels, recorder:
        run(kernels, recorder)
    for handle in chain.from_iterable(handles):
        handle.remove()
    return recorder.cost
