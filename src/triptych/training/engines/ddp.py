"""Data parallel over processes (torch DistributedDataParallel)."""

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from triptych.training.engines.base import OptimizerFactory
from triptych.training.engines.processes import ProcessesEngine

if TYPE_CHECKING:
    from triptych.model.modeling import TriptychForConditionalGeneration


class DdpEngine(ProcessesEngine):
    """Every rank holds the whole model; gradients are averaged once per step."""

    def __init__(self, timeout_minutes: float) -> None:
        super().__init__("ddp", timeout_minutes)
        self._wrapped: DistributedDataParallel | None = None

    def prepare(
        self,
        model: "TriptychForConditionalGeneration",
        make_optimizer: OptimizerFactory,
        max_norm: float | None,
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        self._max_norm = max_norm
        devices = [self.device.index] if self.device.type == "cuda" else None
        self._wrapped = DistributedDataParallel(model, device_ids=devices)
        return self._wrapped, make_optimizer(model)

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        if last or self._wrapped is None:
            return nullcontext()
        return cast(AbstractContextManager[None], self._wrapped.no_sync())

    def finish(self) -> None:
        self._wrapped = None
