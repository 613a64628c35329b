"""Fully sharded data parallel (torch ``fully_shard``, known as FSDP2)."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from triptych.language.layers import decoder_layers
from triptych.training.engines.base import OptimizerFactory
from triptych.training.engines.processes import ProcessesEngine

if TYPE_CHECKING:
    from triptych.model.modeling import TriptychForConditionalGeneration


class Fsdp2Engine(ProcessesEngine):
    """Parameters, gradients and moments are spread over the ranks.

    Each decoder layer is gathered while it runs. Everything else (towers, connector, embeddings,
    head) is one unit that is gathered once per forward pass, so that no gathering depends on
    whether a rank has an image, or on how many tiles. Gradients are reduced after every
    micro-batch: keeping them whole until the last one would undo the sharding.

    Args:
        timeout_minutes: how long a rank waits for the others.
        bf16: gather decoder layers in bfloat16; gradients are reduced in float32 all the same.
        offload: keep parameters, gradients and moments on the CPU, and update them there.
    """

    def __init__(self, timeout_minutes: float, *, bf16: bool, offload: bool) -> None:
        super().__init__("fsdp2", timeout_minutes)
        self.home = torch.device("cpu")
        self.sharded = True
        self._bf16, self._offload = bf16, offload
        self._root: nn.Module | None = None

    def prepare(
        self,
        model: "TriptychForConditionalGeneration",
        make_optimizer: OptimizerFactory,
        max_norm: float | None,
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        self._max_norm = max_norm
        self.align(model)
        options: dict[str, Any] = {"mesh": init_device_mesh(self.device.type, (self.world,))}
        if self._offload:
            options["offload_policy"] = CPUOffloadPolicy(pin_memory=self.device.type == "cuda")
        layers = MixedPrecisionPolicy(cast_forward_inputs=False)
        if self._bf16:
            layers = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        for layer in decoder_layers(model.language_model):
            fully_shard(layer, mp_policy=layers, **options)
        rest = MixedPrecisionPolicy(cast_forward_inputs=False)
        self._root = fully_shard(model, mp_policy=rest, **options)
        return model, make_optimizer(model)

    def whole(self, parameter: nn.Parameter) -> Tensor:
        return _whole(parameter.detach())

    def moments(
        self, optimizer: torch.optim.Optimizer, parameter: nn.Parameter
    ) -> dict[str, Tensor]:
        return {name: _whole(value) for name, value in optimizer.state[parameter].items()}

    def set_moments(
        self,
        optimizer: torch.optim.Optimizer,
        parameter: nn.Parameter,
        values: Mapping[str, Tensor],
    ) -> None:
        for name, value in values.items():
            placed = value.to(parameter.device)
            if isinstance(parameter, DTensor) and value.ndim:
                placed = distribute_tensor(
                    placed, parameter.device_mesh, parameter.placements, src_data_rank=None
                )
            optimizer.state[parameter][name] = placed

    def settle(self) -> None:
        """Shard again what an evaluation has left gathered."""
        if self._root is not None:
            for module in self._root.modules():
                if isinstance(module, FSDPModule):
                    module.reshard()

    def finish(self) -> None:
        self._root = None

    def _clip(self, parameters: list[nn.Parameter]) -> float:
        limit = math.inf if self._max_norm is None else self._max_norm
        return _whole(nn.utils.clip_grad_norm_(parameters, limit)).item()


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
