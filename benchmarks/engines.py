"""Speed and memory of every engine, beside a plain loop over transformers and DDP, in one run.

    python benchmarks/engines.py                a model of 1B parameters on all GPUs
    python benchmarks/engines.py --quick        a few steps; on a CPU two processes, a tiny model
    python benchmarks/engines.py --json         the same as one JSON object

All train everything: one image in each row, the same towers, connector and language model with
random weights. Plain is transformers' LlavaForConditionalGeneration under DistributedDataParallel
with fused AdamW. Memory is the largest of any rank: of the GPU, otherwise what the process came to
hold beside its libraries. Every engine has its own processes.
"""

import argparse
import json
import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from triptych.model import TriptychConfig, TriptychForConditionalGeneration
from triptych.training.engines import Engine, make_engine
from triptych.training.moving import autocast
from triptych.training.stages import ParallelSpec

ENGINES: dict[str, dict[str, Any]] = {
    "plain": {"engine": "ddp"},
    "ddp": {"engine": "ddp"},
    "fsdp2": {"engine": "fsdp2"},
    "zero1": {"engine": "deepspeed", "zero": 1},
    "zero2": {"engine": "deepspeed", "zero": 2},
    "zero3": {"engine": "deepspeed", "zero": 3},
}
IMAGE = 7
WARM_UP = 2
Step = Callable[[list[dict[str, Tensor]]], float]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    engine: str
    tokens_per_second: float
    peak_mib: float
    speed_ratio: float
    memory_ratio: float
    loss: float


@dataclass(frozen=True)
class Size:
    """The model and its batches."""

    width: int
    layers: int
    vocabulary: int
    tower_width: int
    tower_layers: int
    side: int
    tokens: int
    rows: int


TINY = Size(256, 4, 4096, 128, 2, 56, 128, 2)
BILLION = Size(2048, 16, 32_000, 1024, 24, 336, 1024, 2)


def llava(size: Size) -> LlavaConfig:
    """The composition, as transformers writes it."""
    vision = CLIPVisionConfig(
        hidden_size=size.tower_width,
        intermediate_size=4 * size.tower_width,
        num_hidden_layers=size.tower_layers,
        num_attention_heads=size.tower_width // 32,
        image_size=size.side,
        patch_size=14,
    )
    text = LlamaConfig(
        hidden_size=size.width,
        intermediate_size=4 * size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.width // 64,
        vocab_size=size.vocabulary,
        max_position_embeddings=8192,
    )
    return LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE)


def triptych_model(config: LlavaConfig, side: int) -> TriptychForConditionalGeneration:
    """The same composition as our model."""
    tower = {
        "kind": "transformers",
        "config": config.vision_config.to_dict(),
        "layer": -2,
        "cls": "drop",
        "size": side,
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
    }
    panels = {"towers": [tower], "connector": {"kind": "mlp", "layers": 2}}
    text = config.text_config.to_dict()
    return TriptychForConditionalGeneration(
        TriptychConfig(panels=panels, text_config=text, image_token_id=IMAGE)
    )


def batches(size: Size, rank: int, count: int, device: torch.device) -> Iterator[dict[str, Tensor]]:
    """Random rows, an image at the beginning of each; the answer is their second half."""
    generator = torch.Generator().manual_seed(rank)
    patches = (size.side // 14) ** 2
    for _ in range(count):
        shape = (size.rows, size.tokens)
        ids = torch.randint(IMAGE + 1, size.vocabulary, shape, generator=generator)
        ids[:, 1 : 1 + patches] = IMAGE
        labels = ids.clone()
        labels[:, : max(size.tokens // 2, 1 + patches)] = -100
        tiles = torch.randint(0, 256, (size.rows, 3, size.side, size.side), generator=generator)
        yield {
            "input_ids": ids.to(device),
            "attention_mask": torch.ones_like(ids).to(device),
            "labels": labels.to(device),
            "pixel_values": tiles.to(torch.uint8).to(device),
        }


def normal(batch: dict[str, Tensor]) -> Tensor:
    """Pixels as CLIP wants them."""
    return (batch["pixel_values"].float() / 255 - 0.5) / 0.25


def plain_step(size: Size, engine: Engine, precision: str) -> Step:
    """What one writes with transformers and DDP alone."""
    model = LlavaForConditionalGeneration(llava(size)).to(engine.device)
    batch = next(batches(size, 0, 1, engine.device))
    model(**{**batch, "pixel_values": normal(batch)}, use_cache=False).loss.backward()
    for parameter in model.parameters():  # it never runs the tower's last layer
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None
    wrapped = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True
    )

    def step(micro: list[dict[str, Tensor]]) -> float:
        total = 0.0
        for number, batch in enumerate(micro):
            wrapped.require_backward_grad_sync = number == len(micro) - 1
            with autocast(engine.device, precision):
                loss = wrapped(**{**batch, "pixel_values": normal(batch)}, use_cache=False).loss
            (loss / len(micro)).backward()
            total += loss.item() / len(micro)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return total

    return step


def engine_step(size: Size, engine: Engine, precision: str) -> Step:
    """What the training loop does with an engine."""
    model = triptych_model(llava(size), size.side).to(engine.home).train()
    if engine.gathers_on_use:
        model.run_every_part("tiles")

    def make_optimizer(prepared: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(prepared.parameters(), lr=1e-4, fused=True)

    module, optimizer = engine.prepare(model, make_optimizer, 1.0)

    def step(micro: list[dict[str, Tensor]]) -> float:
        counts = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in micro)
        supervised = int(engine.all_reduce_sum(torch.tensor(counts, device=engine.device)))
        total = torch.zeros((), device=engine.device)
        for number, batch in enumerate(micro, start=1):
            one = torch.ones(size.rows, dtype=torch.int64)
            own = {**batch, "tiles_per_image": one, "images_per_sample": one}
            with engine.accumulating(last=number == len(micro)):
                with autocast(engine.device, precision):
                    output = module(**own, num_items_in_batch=supervised, use_cache=False)
                engine.backward(output.loss)
            total += output.loss.detach()
        engine.update(optimizer)
        return float(engine.all_reduce_sum(total))

    return step


def work(name: str, rank: int, options: argparse.Namespace, port: int, results: Any) -> None:  # noqa: ANN401
    """One rank of one engine."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(options.processes),
        "LOCAL_WORLD_SIZE": str(options.processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    torch.manual_seed(0)
    size = BILLION if torch.cuda.is_available() else TINY
    before = start_of_memory()
    engine = make_engine(ParallelSpec(**ENGINES[name], timeout_minutes=2), options.precision)
    make_step = plain_step if name == "plain" else engine_step
    step = make_step(size, engine, options.precision)
    micro = list(batches(size, rank, options.accumulation, engine.device))
    seconds, loss = [], 0.0
    for _ in range(WARM_UP + options.steps):
        engine.barrier()
        begin = time.perf_counter()
        loss = step(micro)
        if engine.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    typical = sorted(seconds[WARM_UP:])[options.steps // 2]
    tokens = size.rows * size.tokens * options.accumulation * options.processes
    peaks = engine.gather(peak_mib(before))
    if engine.is_main:
        results.put((tokens / typical, max(peaks), loss))
    engine.finish()
    engine.close()


def start_of_memory() -> float:
    """Forget the highest use of memory so far; returns the present one in MiB."""
    if torch.cuda.is_available():
        return 0.0
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak_mib(before: float) -> float:
    """The most that was held at once since ``start_of_memory``, beside what was held then."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return _status("VmHWM") - before


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(key + ":"))


def measure(name: str, options: argparse.Namespace) -> tuple[float, float, float]:
    """Tokens per second, peak MiB and last loss of one engine."""
    context = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "fork")
    results = context.Queue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [
        context.Process(target=work, args=(name, rank, options, port, results), daemon=True)
        for rank in range(options.processes)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(options.watchdog)
        if process.exitcode != 0:
            for other in ranks:
                other.kill()
            raise SystemExit(f"{name}: a rank ended with {process.exitcode}")
    speed, peak, loss = results.get()
    return speed, peak, loss


def show(rows: list[Row], title: str) -> None:
    table = Table(title=title)
    for heading in ("engine", "tokens/s", "peak MiB", "speed / plain", "memory / plain", "loss"):
        table.add_column(heading, justify="left" if heading == "engine" else "right")
    for row in rows:
        table.add_row(
            row.engine,
            f"{row.tokens_per_second:,.0f}",
            f"{row.peak_mib:,.0f}",
            f"{row.speed_ratio:.2f}",
            f"{row.memory_ratio:.2f}",
            f"{row.loss:.4f}",
        )
    Console(width=100).print(table)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few steps")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--processes", type=int, default=torch.cuda.device_count() or 2)
    parser.add_argument("--steps", type=int, default=None, help="measured steps of each engine")
    parser.add_argument("--accumulation", type=int, default=2, help="micro-batches of a step")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default=None)
    parser.add_argument("--engines", nargs="+", choices=sorted(ENGINES), default=list(ENGINES))
    parser.add_argument("--watchdog", type=float, default=600.0, help="seconds for one engine")
    options = parser.parse_args()
    options.steps = options.steps or (4 if options.quick else 20)
    options.precision = options.precision or ("bf16" if torch.cuda.is_available() else "fp32")
    return options


def main() -> None:
    options = parse()
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        import deepspeed  # noqa: F401  # once, before the ranks are forked
    found = {name: measure(name, options) for name in options.engines}
    first = found[options.engines[0]]
    rows = [
        Row(name, speed, peak, speed / first[0], peak / first[1], loss)
        for name, (speed, peak, loss) in found.items()
    ]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    if options.json:
        settings = {"device": device, "processes": options.processes, "steps": options.steps}
        print(json.dumps({**settings, "rows": [asdict(row) for row in rows]}, indent=1))
    else:
        show(rows, f"{options.processes} processes, {device}, {options.precision}")


if __name__ == "__main__":
    main()
