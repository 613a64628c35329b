"""Time and memory of MMCA over causal attention on the same shapes, in one run.

    python benchmarks/attention.py            the whole table, forward and forward + backward
    python benchmarks/attention.py --quick    its corners
    python benchmarks/attention.py --json     the same as JSON rows
    TRIPTYCH_NATIVE=0 python benchmarks/attention.py    without the compiled kernel

Causal is PyTorch's fused causal attention over the whole sequence. MMCA is what a model runs in
each layer. Dense is the published formulation: two masked softmaxes over the whole square. Text is
spread between the images. The compared kernels run in turn, and the fastest repetition of each
counts. Bytes are the most that was held at once beside the inputs. The layout is worked out once
per forward pass, not per layer; the table shows its time by itself.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from triptych.attention import AttentionLayout, Kind, make_rule, plan_attention
from triptych.attention.interface import attention_forward
from triptych.attention.kernels.native import has_native

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
QUICK = [(8, 576, 256), (4, 256, 256), (1, 64, 1024), (1, 64, 256)]
FULL = [
    (images, size, text)
    for images in (1, 2, 4, 8)
    for size in (64, 256, 576)
    for text in (256, 1024)
]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    images: int
    tokens_per_image: int
    text_tokens: int
    mode: str
    causal_ms: float
    mmca_ms: float
    dense_ms: float | None
    ratio: float
    dense_ratio: float | None
    causal_bytes: int
    mmca_bytes: int


def spread(images: int, size: int, text: int) -> Tensor:
    """Token kinds (1, S): text in equal parts before, between and after the images."""
    cuts = [text * part // (images + 1) for part in range(images + 2)]
    kinds: list[int] = []
    for part in range(images + 1):
        kinds += [Kind.TEXT] * (cuts[part + 1] - cuts[part])
        kinds += [Kind.IMAGE] * size if part < images else []
    return torch.tensor([kinds])


class Kernels:
    """The three computations on one set of random tensors (1, H, S, D)."""

    def __init__(self, kinds: Tensor, options: argparse.Namespace) -> None:
        dtype, device = DTYPES[options.dtype], options.device
        length, depth = kinds.shape[1], options.head_dim
        heads = (
            options.heads,
            options.kv_heads or options.heads,
            options.kv_heads or options.heads,
        )
        self.rule = make_rule("mmca")
        self.inputs = [
            torch.randn(1, length, count, depth, device=device, dtype=dtype)
            .transpose(1, 2)
            .requires_grad_()
            for count in heads
        ]
        self.probe = torch.randn_like(self.inputs[0])
        self.scale = depth**-0.5
        native = has_native()  # before the clock starts: it may compile
        begin = time.perf_counter()
        self.layout: AttentionLayout = plan_attention(self.rule, kinds.to(device), length)
        _ = self.layout.intervals if native else self.layout.prefers_blocks
        self.plan_ms = (time.perf_counter() - begin) * 1e3
        self.module = torch.nn.Module()

    def causal(self) -> Tensor:
        grouped = self.inputs[0].shape[1] != self.inputs[1].shape[1]
        return F.scaled_dot_product_attention(
            *self.inputs, is_causal=True, scale=self.scale, enable_gqa=grouped
        )

    def mmca(self) -> Tensor:
        out, _ = attention_forward(
            self.rule, self.module, *self.inputs, None, attention_layout=self.layout
        )
        return out.transpose(1, 2)

    def dense(self) -> Tensor:
        query, key, value = self.inputs
        share = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(share, 1), value.repeat_interleave(share, 1)
        masks = self.rule.masks(self.layout.tokens, query.shape[2])
        scores = query @ key.transpose(-1, -2) * self.scale
        low = torch.finfo(scores.dtype).min
        parts = [
            torch.where(mask, scores, low).softmax(-1, dtype=torch.float32)
            * mask.any(-1, keepdim=True)
            for mask in masks
        ]
        return (parts[0] + parts[1]).to(value.dtype) @ value

    def run(self, kernel: Callable[[], Tensor], mode: str) -> None:
        if mode == "forward":
            with torch.no_grad():
                kernel()
        else:
            torch.autograd.grad(kernel(), self.inputs, self.probe)
        if self.probe.is_cuda:
            torch.cuda.synchronize()


def clock(kernels: Kernels, mode: str, options: argparse.Namespace) -> list[float]:
    """Fastest milliseconds of causal, MMCA and dense attention."""
    best = [float("inf")] * 3
    parts = [kernels.causal, kernels.mmca]
    for kernel in parts:
        kernels.run(kernel, mode)
    begin, repeats = time.perf_counter(), 0
    while repeats < 5 or time.perf_counter() - begin < options.seconds:
        for place, kernel in enumerate(parts):
            best[place] = min(best[place], _once(kernels, kernel, mode))
        repeats += 1
    if not options.no_dense:
        best[2] = _once(kernels, kernels.dense, mode)
        if best[2] < 1000:
            best[2] = min(best[2], _once(kernels, kernels.dense, mode))
    return best


def _once(kernels: Kernels, kernel: Callable[[], Tensor], mode: str) -> float:
    begin = time.perf_counter()
    kernels.run(kernel, mode)
    return (time.perf_counter() - begin) * 1e3


def peak_bytes(kernels: Kernels, kernel: Callable[[], Tensor], mode: str) -> int:
    """The most that was held at once beside what was held before, buffers of operators included."""
    if kernels.probe.is_cuda:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        kernels.run(kernel, mode)
        return torch.cuda.max_memory_allocated() - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        kernels.run(kernel, mode)
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    memory = [event["args"] for event in events if event.get("name") == "[memory]"]
    before = memory[0]["Total Allocated"] - memory[0]["Bytes"]
    return int(max(event["Total Allocated"] for event in memory) - before)


def measure(shape: tuple[int, int, int], options: argparse.Namespace) -> tuple[list[Row], float]:
    """The rows of one shape, and the milliseconds that its layout took."""
    kernels = Kernels(spread(*shape), options)
    rows = []
    for mode in ("forward", "train"):
        causal, mmca, dense = clock(kernels, mode, options)
        rows.append(
            Row(
                *shape,
                mode,
                round(causal, 3),
                round(mmca, 3),
                None if options.no_dense else round(dense, 3),
                round(mmca / causal, 4),
                None if options.no_dense else round(dense / causal, 4),
                peak_bytes(kernels, kernels.causal, mode),
                peak_bytes(kernels, kernels.mmca, mode),
            )
        )
    return rows, kernels.plan_ms


def show(results: Sequence[tuple[list[Row], float]]) -> None:
    table = Table(title="MMCA over causal attention (ratios below 1 are faster, smaller)")
    for name in ("images", "text", "mode", "causal", "MMCA", "dense", "MMCA / causal"):
        table.add_column(name, justify="right")
    for name in ("dense / causal", "MMCA MB", "memory ratio", "layout"):
        table.add_column(name, justify="right")
    for rows, plan_ms in results:
        for row in rows:
            table.add_row(
                f"{row.images} x {row.tokens_per_image}",
                str(row.text_tokens),
                row.mode,
                f"{row.causal_ms:.2f} ms",
                f"{row.mmca_ms:.2f} ms",
                "-" if row.dense_ms is None else f"{row.dense_ms:.1f} ms",
                f"{row.ratio:.3f}",
                "-" if row.dense_ratio is None else f"{row.dense_ratio:.2f}",
                f"{row.mmca_bytes / 1e6:.1f}",
                f"{row.mmca_bytes / row.causal_bytes:.3f}",
                f"{plan_ms:.1f} ms",
            )
    Console(width=130).print(table)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="only the corners of the table")
    parser.add_argument("--json", action="store_true", help="print rows instead of a table")
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--kv-heads", type=int, default=None, help="default: as many as heads")
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=1.0, help="per pair of kernels, at least")
    parser.add_argument("--no-dense", action="store_true", help="leave out the published form")
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    results = [measure(shape, options) for shape in (QUICK if options.quick else FULL)]
    if options.json:
        print(json.dumps({"rows": [asdict(row) for rows, _ in results for row in rows]}, indent=1))
    else:
        show(results)


if __name__ == "__main__":
    main()
