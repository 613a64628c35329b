"""What the engines over several processes, started by torchrun, have in common."""

import os
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from triptych.errors import RecipeError
from triptych.training.engines.single import SingleEngine

T = TypeVar("T")


class ProcessesEngine(SingleEngine):
    """Joins the process group: nccl where there are GPUs, gloo on CPU.

    Gradients are averaged over ranks by the library below, so the loss, already divided by the
    supervised tokens of all ranks, is multiplied by their number first.

    Args:
        name: of the engine, for messages.
        timeout_minutes: how long a rank waits for the others.
    """

    def __init__(self, name: str, timeout_minutes: float) -> None:
        super().__init__()
        if "RANK" not in os.environ:
            raise RecipeError(
                f"parallel.engine is '{name}' but this process was not started by torchrun; launch "
                "with: triptych train RECIPE --processes N (several machines: torchrun "
                "--nproc-per-node N -m triptych train RECIPE), or set parallel.engine=single"
            )
        if self.device.type == "cuda":
            self.device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(self.device)
        self.home = self.device
        # gloo beside nccl: offloaded parameters are gathered on the CPU.
        backend = "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(minutes=timeout_minutes))
        self.rank = dist.get_rank()
        self.world = dist.get_world_size()
        self.neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", self.world))

    def align(self, model: nn.Module) -> None:
        """Give every rank the main rank's values of what trains; LoRA matrices begin at random."""
        for parameter in model.parameters():
            if parameter.requires_grad:
                dist.broadcast(parameter.data, 0)

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
