"""The reference of DPO: the model of the stage's beginning, without holding it twice."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from triptych.errors import CheckpointError, DataError
from triptych.training.engines.base import Engine
from triptych.training.files import write_bytes
from triptych.training.lora import adapters_off
from triptych.training.moving import autocast, to_device
from triptych.training.objectives.base import Batch, Once
from triptych.training.objectives.dpo import KEYS, LogProbs, answer_logprobs

if TYPE_CHECKING:
    from triptych.model.modeling import TriptychForConditionalGeneration

Evaluating = Callable[[], AbstractContextManager[None]]


def measure_pairs(module: nn.Module, inputs: Batch, pairs: int) -> LogProbs:
    """Log-probabilities of ``pairs`` pairs under ``module``, without a gradient."""
    with torch.no_grad():
        output = module(**inputs, use_cache=False)
        return answer_logprobs(output.logits, inputs, pairs)


@dataclass(frozen=True)
class AdapterOff:
    """The model itself, with its LoRA matrices switched off.

    Attributes:
        model: what ``module`` wraps.
        evaluating: puts the model in evaluation mode for a while, without dropout.
    """

    model: "TriptychForConditionalGeneration"
    evaluating: Evaluating

    def begin(self, module: nn.Module, data: Once, *, resumed: bool) -> None:
        return None

    def look_up(self, module: nn.Module, inputs: Batch, keys: Tensor) -> LogProbs:
        with self.evaluating(), adapters_off(self.model.language_model):
            return measure_pairs(module, inputs, len(keys))


@dataclass
class Stored:
    """Log-probabilities of all pairs, computed once and kept in a file of the run folder.

    The file names the model by its fingerprint; a stage that begins with another model computes
    them anew. Pairs are found by their content, so an order of the data means nothing.

    Attributes:
        path: the file.
        fingerprint: of the model at the beginning of the stage; None when a stage is resumed,
            whose weights are others by then.
    """

    path: Path
    fingerprint: str | None
    engine: Engine
    precision: str
    evaluating: Evaluating
    _rows: dict[int, int] = field(default_factory=dict)
    _table: Tensor = field(default_factory=lambda: torch.zeros(0, 2))

    def begin(self, module: nn.Module, data: Once, *, resumed: bool) -> None:
        if not self._read(resumed=resumed):
            self._compute(module, data)

    def look_up(self, module: nn.Module, inputs: Batch, keys: Tensor) -> LogProbs:
        try:
            rows = [self._rows[key] for key in keys.tolist()]
        except KeyError:
            raise DataError(
                f"{self.path}: has no log-probabilities of one of the pairs of this step; the data "
                "were changed since the stage began. Restore them, or start the run anew"
            ) from None
        chosen, rejected = self._table[rows].to(inputs["input_ids"].device).unbind(1)
        return LogProbs(chosen, rejected)

    def _read(self, *, resumed: bool) -> bool:
        """Use the file of an earlier start, if it is of the same model."""
        found = self.path.is_file()
        if resumed and not found:
            raise CheckpointError(
                f"{self.path}: the stored log-probabilities of the reference are gone, and the "
                "stage cannot go on without them"
            )
        if not found:
            return False
        with safe_open(self.path, framework="pt") as file:
            about = json.loads(file.metadata()["triptych"])
            if not resumed and about["fingerprint"] != self.fingerprint:
                return False
            self._fill(file.get_tensor("keys"), file.get_tensor("logprobs"))
        return True

    def _compute(self, module: nn.Module, data: Once) -> None:
        keys: list[Tensor] = []
        values: list[Tensor] = []
        device = self.engine.device
        with self.evaluating():
            for batch in data.once():
                inputs = to_device({n: v for n, v in batch.items() if n != KEYS}, device)
                with autocast(device, self.precision):
                    found = measure_pairs(module, inputs, len(batch[KEYS]))
                keys.append(batch[KEYS])
                values.append(torch.stack(found, dim=1).float().cpu())
        gathered = self.engine.gather((torch.cat(keys), torch.cat(values)))
        self._fill(torch.cat([one for one, _ in gathered]), torch.cat([v for _, v in gathered]))
        if self.engine.is_main:
            self._write()
        self.engine.barrier()

    def _fill(self, keys: Tensor, values: Tensor) -> None:
        self._table = values
        self._rows = {key: row for row, key in enumerate(keys.tolist())}

    def _write(self) -> None:
        keys = torch.tensor(list(self._rows), dtype=torch.int64)
        tensors = {"keys": keys, "logprobs": self._table[list(self._rows.values())]}
        about = json.dumps({"fingerprint": self.fingerprint})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(self.path, save(tensors, metadata={"triptych": about}))
