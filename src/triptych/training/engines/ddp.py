"""Data parallel over processes started by torchrun (torch DistributedDataParallel)."""

import os
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from triptych.errors import RecipeError
from triptych.training.engines.base import OptimizerFactory
from triptych.training.engines.single import SingleEngine

T = TypeVar("T")


class DdpEngine(SingleEngine):
    """Every rank holds the whole model; gradients are averaged once per step.

    nccl where there are GPUs, gloo on CPU. DDP divides gradients by the number of ranks, so the
    loss, already divided by the supervised tokens of all ranks, is multiplied by it first.
    """

    def __init__(self, timeout_minutes: float) -> None:
        super().__init__()
        if "RANK" not in os.environ:
            raise RecipeError(
                "parallel.engine is 'ddp' but this process was not started by torchrun; launch "
                "with: triptych train RECIPE --processes N (several machines: torchrun "
                "--nproc-per-node N -m triptych train RECIPE), or set parallel.engine=single"
            )
        if self.device.type == "cuda":
            self.device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(self.device)
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(minutes=timeout_minutes))
        self.rank = dist.get_rank()
        self.world = dist.get_world_size()
        self.neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", self.world))
        self._wrapped: DistributedDataParallel | None = None

    def prepare(
        self, model: nn.Module, make_optimizer: OptimizerFactory
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        devices = [self.device.index] if self.device.type == "cuda" else None
        self._wrapped = DistributedDataParallel(model, device_ids=devices)
        return self._wrapped, make_optimizer(model)

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        if last or self._wrapped is None:
            return nullcontext()
        return cast(AbstractContextManager[None], self._wrapped.no_sync())

    def backward(self, loss: Tensor) -> None:
        torch.autograd.backward(loss * self.world)

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor)
        return tensor

    def gather(self, item: T) -> list[T]:
        items: list[T | None] = [None] * self.world
        dist.all_gather_object(items, item)
        return cast(list[T], items)

    def barrier(self) -> None:
        dist.barrier()

    def close(self) -> None:
        dist.destroy_process_group()
