"""DeepSpeed ZeRO, by ``deepspeed.initialize`` (Rajbhandari et al., 2020)."""

import logging
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import deepspeed
import torch
from deepspeed.accelerator import set_accelerator
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator
from deepspeed.utils import (
    lazy_init_hp_params_optimizer_state,
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_optimizer_state,
    safe_set_local_optimizer_state,
)
from torch import Tensor, nn

from triptych.errors import RecipeError
from triptych.training.engines.base import MOMENTS, OptimizerFactory
from triptych.training.engines.processes import ProcessesEngine

if TYPE_CHECKING:
    from triptych.model.modeling import TriptychForConditionalGeneration
    from triptych.training.stages import ParallelSpec

Config = dict[str, Any]


class PlainCpu(CPU_Accelerator):  # type: ignore[misc]  # deepspeed has no annotations
    """DeepSpeed's CPU, which exchanges tensors by gloo and compiles nothing."""

    def create_op_builder(self, op_name: str) -> object | None:
        """No shared-memory collectives: compiling them takes minutes at the first run."""
        if op_name == "ShareMemCommBuilder":
            return None
        builder: object | None = super().create_op_builder(op_name)
        return builder


class DeepSpeedEngine(ProcessesEngine):
    """ZeRO stages 1 (moments spread), 2 (gradients too) and 3 (parameters too).

    AdamW is PyTorch's, on the GPU or, offloaded, on the CPU. Its moments exist from the start:
    DeepSpeed links those of later parameter groups only if they are there at the first step.

    Args:
        spec: stage, offloading and further keys of DeepSpeed's configuration.
        bf16: compute in bfloat16 by autocast; parameters, moments and reductions stay in float32.
    """

    def __init__(self, spec: "ParallelSpec", *, bf16: bool) -> None:
        super().__init__("deepspeed", spec.timeout_minutes)
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        # It calls collectives by names that torch is about to drop, many times in a step.
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
        if self.device.type == "cpu":
            set_accelerator(PlainCpu())
        self.home = torch.device("cpu")
        self.sharded = True
        self.gathers_on_use = spec.zero == 3
        self._spec, self._bf16 = spec, bf16
        self._engine: Any = None

    def prepare(
        self,
        model: "TriptychForConditionalGeneration",
        make_optimizer: OptimizerFactory,
        max_norm: float | None,
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        self.align(model)
        base = make_optimizer(model)
        self._engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=base,
            config=make_config(self._spec, bf16=self._bf16, max_norm=max_norm),
            dist_init_required=False,
        )
        if self._spec.offload != "nvme":
            self._make_moments(base)
        module: nn.Module = self._engine
        return module, base

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        self._engine.set_gradient_accumulation_boundary(last)
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        self._engine.backward(loss * self.world, scale_wrt_gas=False)

    def update(self, optimizer: torch.optim.Optimizer) -> float:
        self._engine.step()
        return float(self._engine.get_global_grad_norm())

    def whole(self, parameter: nn.Parameter) -> Tensor:
        value: Tensor = safe_get_full_fp32_param(parameter)
        return value

    def moments(
        self, optimizer: torch.optim.Optimizer, parameter: nn.Parameter
    ) -> dict[str, Tensor]:
        step = next(iter(optimizer.state.values()))["step"]
        full = {name: safe_get_full_optimizer_state(parameter, name) for name in MOMENTS}
        return {**full, "step": step}

    def set_moments(
        self,
        optimizer: torch.optim.Optimizer,
        parameter: nn.Parameter,
        values: Mapping[str, Tensor],
    ) -> None:
        if self._spec.offload == "nvme":
            raise RecipeError(
                "moments on disk cannot be put back; resume with parallel.offload=cpu or none"
            )
        for name, value in values.items():
            if name == "step":
                for state in optimizer.state.values():
                    state["step"].copy_(value)
            elif self._spec.zero == 3:
                local = self._part(parameter, value)
                safe_set_local_optimizer_state(parameter, local, name)
            else:
                safe_set_full_optimizer_state(parameter, value.to(self.device), name)

    def finish(self) -> None:
        if self._engine is not None:
            self._engine.destroy()
        self._engine = None

    def close(self) -> None:
        if deepspeed.comm.is_initialized():
            deepspeed.comm.destroy_process_group()
        else:
            super().close()

    def _part(self, parameter: nn.Parameter, value: Tensor) -> Tensor:
        """This rank's piece of a whole tensor; the last ones end in padding."""
        size = parameter.ds_tensor.numel()  # type: ignore[attr-defined]  # partitioned by ZeRO
        piece = value.flatten()[self.rank * size : (self.rank + 1) * size]
        part = torch.zeros(size, dtype=torch.float32)
        part[: len(piece)] = piece
        return part

    def _make_moments(self, base: torch.optim.Optimizer) -> None:
        zero, third = self._engine.optimizer, self._spec.zero == 3
        flats = zero.fp32_partitioned_groups_flat if third else zero.single_partition_of_fp32_groups
        for flat in flats:
            base.state[flat] = {name: torch.zeros_like(flat) for name in MOMENTS}
            base.state[flat]["step"] = torch.zeros((), dtype=torch.float32, device=flat.device)
        if not third:
            for members, flat in zip(zero.bit16_groups, flats, strict=True):
                lazy_init_hp_params_optimizer_state(members, flat, base.state)


def make_config(spec: "ParallelSpec", *, bf16: bool, max_norm: float | None) -> Config:
    """DeepSpeed's configuration: ours, with ``spec.deepspeed`` merged over it.

    Batch size and accumulation stand for nothing: the loop says which micro-batch is the last.
    """
    zero: Config = {"stage": spec.zero}
    if spec.offload != "none":
        place: Config = {"device": spec.offload, "pin_memory": torch.cuda.is_available()}
        if spec.offload == "nvme":
            place["nvme_path"] = str(spec.nvme)
        zero["offload_optimizer"] = place
        if spec.zero == 3:
            zero["offload_param"] = dict(place)
    ours: Config = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "steps_per_print": 10**9,
        "gradient_clipping": max_norm or 0.0,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": zero,
    }
    if bf16:
        # An empty list of modules: none of them is exchanged in bfloat16.
        ours["torch_autocast"] = {
            "enabled": True,
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],
        }
    return _merged(ours, spec.deepspeed)


def _merged(one: Config, over: Mapping[str, Any]) -> Config:
    result = dict(one)
    for key, value in over.items():
        deeper = isinstance(value, Mapping) and isinstance(result.get(key), dict)
        result[key] = _merged(result[key], value) if deeper else value
    return result
