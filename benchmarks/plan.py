"""Planned against measured memory of a training step, in one run.

    python benchmarks/plan.py            all configurations
    python benchmarks/plan.py --quick    the smaller batches
    python benchmarks/plan.py --json     one JSON object

Each configuration trains two steps of a model with random weights; the second is recorded by the
allocation events of torch's profiler (on a GPU by its allocator). Weights, gradients and moments
are the bytes of those tensors. The peak is the most that is held at once, weights included.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from triptych.planning.blueprint import draw
from triptych.planning.plan import plan
from triptych.planning.stage import GB, Hardware
from triptych.planning.step import Setting
from triptych.planning.workload import Sample, Workload, measure
from triptych.recipe import Recipe
from triptych.spec import validate
from triptych.training.moving import autocast, to_device
from triptych.training.parts import begin_stage, cast_frozen, parameter_groups

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
    "vocab_size": 3000,
}
PHI = {**LLAMA, "model_type": "phi3", "num_key_value_heads": 8}
MIXTRAL = {
    **LLAMA,
    "model_type": "mixtral",
    "num_hidden_layers": 3,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}
SMALL = {"kind": "small", "size": 64, "patch": 8, "hidden": 192, "depth": 4, "heads": 4}
CLIP = {
    "kind": "transformers",
    "config": {
        "model_type": "clip_vision_model",
        "hidden_size": 192,
        "intermediate_size": 768,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "image_size": 112,
        "patch_size": 14,
    },
}
FULL = {"language": "full", "connector": True}
FROZEN = {"language": "frozen", "connector": True}
ANYRES = {"kind": "anyres"}
CASES: dict[str, dict[str, Any]] = {
    "connector alone": {"train": FROZEN},
    "everything but the tower": {"train": FULL},
    "everything": {"train": {**FULL, "towers": True}, "tower": CLIP},
    "everything, checkpointed": {"train": FULL, "checkpointing": True},
    "LoRA": {"train": {"language": "lora", "connector": True}},
    "any resolution, perceiver": {
        "train": FULL,
        "tower": CLIP,
        "tiling": ANYRES,
        "connector": {"kind": "perceiver", "depth": 2, "heads": 4, "head_width": 48, "latents": 32},
        "language": PHI,
    },
    "MMCA, embeddings": {"train": {**FROZEN, "embeddings": True}, "attention": "mmca"},
    "gated cross-attention": {"train": FROZEN, "fusion": {"kind": "cross", "every": 2}},
    "DeepStack": {"train": FULL, "fusion": {"kind": "deepstack", "count": 2}},
    "mixture of experts": {"train": FULL, "language": MIXTRAL},
    "accumulating": {"train": FULL, "per_step": 2},
    "bf16": {"train": FULL, "precision": "bf16", "language": {**LLAMA, "num_hidden_layers": 2}},
}


@dataclass(frozen=True)
class Row:
    """One configuration, in bytes."""

    name: str
    planned: Mapping[str, int]
    measured: Mapping[str, int]
    off: Mapping[str, float]


def recipe_of(case: Mapping[str, Any], rows: int) -> Recipe:
    return validate(
        Recipe,
        {
            "model": {
                "towers": [case.get("tower", SMALL)],
                "tiling": case.get("tiling", {"kind": "fixed"}),
                "connector": case.get("connector", {"kind": "mlp"}),
                "fusion": case.get("fusion", {"kind": "splice"}),
                "attention": case.get("attention", "causal"),
                "language": {
                    "kind": "transformers",
                    "config": case.get("language", LLAMA),
                    "tokenizer": "none",
                },
            },
            "data": {
                "sources": {"none": {"path": "none.jsonl"}},
                "batch": {
                    "samples": rows,
                    "tokens": 2**20,
                    "tiles": 2**10,
                    "per_step": case.get("per_step", 1),
                },
            },
            "stages": [{"name": "step", "steps": 1, "train": case["train"]}],
            "run": {
                "folder": "none",
                "precision": case.get("precision", "fp32"),
                "gradient_checkpointing": case.get("checkpointing", False),
            },
        },
        "benchmark",
    )


@dataclass
class RealStep:
    """A model with memory that takes training steps."""

    recipe: Recipe
    workload: Workload
    rows: int
    device: str

    def __post_init__(self) -> None:
        setting = Setting(draw(self.recipe.model), self.recipe.stages, self.recipe.run, gpu=False)
        self.blueprint, stage = setting.blueprint, self.recipe.stages[0]
        self.model = self.blueprint.build(device="cpu").float()
        if self.recipe.run.precision == "bf16":
            cast_frozen(self.model, self.recipe.stages, torch.bfloat16)
        if self.recipe.run.gradient_checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        self.model.to(self.device)
        parts = begin_stage(self.model, stage)
        self.model.to(self.device)
        self.optimizer = torch.optim.AdamW(parameter_groups(parts, 0.0), lr=1e-4, fused=True)
        self.gradients = 0

    def batches(self) -> Iterator[dict[str, Tensor]]:
        for _ in range(self.recipe.data.batch.per_step):
            batch = self.workload.batch(self.blueprint, self.rows, encoded=False)
            tiles = batch.get("pixel_values")
            if tiles is not None:
                batch["pixel_values"] = torch.randint(256, tiles.shape, dtype=torch.uint8)
            yield to_device(batch, torch.device(self.device))

    def __call__(self) -> None:
        for batch in self.batches():
            with autocast(torch.device(self.device), self.recipe.run.precision):
                output = self.model(**batch, use_cache=False)
            torch.autograd.backward(output.loss)
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        self.gradients = sum(p.grad.nbytes for p in trained if p.grad is not None)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def sizes(self) -> dict[str, int]:
        """Weights, gradients, moments and the peak of a step."""
        self()
        held = {
            "weights": sum(p.nbytes for p in self.model.parameters()),
            "gradients": self.gradients,
            "optimizer": sum(
                value.nbytes
                for state in self.optimizer.state.values()
                for value in state.values()
                if isinstance(value, Tensor)
            ),
        }
        buffers = sum(buffer.nbytes for buffer in self.model.buffers())
        rise = self._rise()
        return held | {"total": held["weights"] + held["optimizer"] + buffers + rise}

    def _rise(self) -> int:
        """The most that a step holds at once beside what was held before it."""
        if self.device != "cpu":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self()
            return torch.cuda.max_memory_allocated() - before
        activities = [torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
            self()
        with tempfile.TemporaryDirectory() as folder:
            trace = Path(folder) / "trace.json"
            profile.export_chrome_trace(str(trace))
            events = json.loads(trace.read_text())["traceEvents"]
        memory = [event["args"] for event in events if event.get("name") == "[memory]"]
        before = memory[0]["Total Allocated"] - memory[0]["Bytes"]
        return int(max(event["Total Allocated"] for event in memory) - before)


def compare(name: str, rows: int, device: str) -> Row:
    case = CASES[name]
    recipe = recipe_of(case, rows)
    sample = Sample(sizes=((300, 200),), text=96)
    hardware = Hardware(1, 80 * GB, is_gpu=device != "cpu")
    made = plan(recipe, hardware, sample)
    held = made.memory
    planned = {
        "weights": held.weights,
        "gradients": held.gradients,
        "optimizer": held.optimizer,
        "total": held.total,
    }
    workload = measure(draw(recipe.model), sample, recipe.data.max_tokens)
    torch.manual_seed(0)
    measured = RealStep(recipe, workload, rows, device).sizes()
    off = {key: round(planned[key] / measured[key] - 1, 4) for key in planned if measured[key]}
    return Row(name, planned, measured, off)


def show(rows: Sequence[Row]) -> None:
    table = Table(title="planned against measured, MB")
    table.add_column("configuration")
    keys = ("weights", "gradients", "optimizer", "total")
    for key in keys:
        table.add_column("peak" if key == "total" else key, justify="right")
    table.add_column("peak off", justify="right")
    for row in rows:
        cells = [f"{row.planned[key] / 1e6:.2f} / {row.measured[key] / 1e6:.2f}" for key in keys]
        table.add_row(row.name, *cells, f"{100 * row.off['total']:+.1f} %")
    Console(width=130).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the smaller batches")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--only", choices=sorted(CASES), action="append")
    options = parser.parse_args()
    rows = [compare(name, 2 if options.quick else 8, "cpu") for name in options.only or CASES]
    gpu: dict[str, Any] = {"skipped": "no CUDA device"}
    if torch.cuda.is_available():
        gpu = {"rows": [asdict(compare(name, 8, "cuda")) for name in CASES]}
    states = ("weights", "gradients", "optimizer")
    worst = {
        "states": max(abs(row.off.get(key, 0.0)) for row in rows for key in states),
        "peak": max(abs(row.off["total"]) for row in rows),
    }
    if options.json:
        print(json.dumps({"rows": [asdict(row) for row in rows], "worst": worst, "gpu": gpu}))
        return
    show(rows)
    print(f"worst: {worst}; gpu: {gpu}")


if __name__ == "__main__":
    main()
