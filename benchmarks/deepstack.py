"""What DeepStack costs beside the plain model and beside the string of all tokens, in one run.

    python benchmarks/deepstack.py            a small language model and one square image
    python benchmarks/deepstack.py --quick    the same, smaller and shorter
    python benchmarks/deepstack.py --json     one JSON object

One image of noise and a short text go through the same language model: with one tile in the
sequence (plain), with four groups of finer tiles added in deeper layers (deepstack), and with the
tokens of all tiles in the sequence (string, with the overview and without). The time of the
language model is that of its own pass, forward (prefill, with a cache) or forward and backward to
embeddings and stacks (step); vision is towers, connector and everything up to embeddings and
stacks. Arms take turns, and the fastest repetition of each counts. FLOPs are counted, not timed.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache

from triptych.model.build import initialise
from triptych.model.spec import ModelSpec
from triptych.model.vision import IMAGE_INPUTS, Images

GRID = {"kind": "grid", "side": 2, "fit": "stretch", "skip": "none", "order": "rows"}
ARMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "deepstack": {
        "fusion": {"kind": "deepstack", "producer": {"kind": "mosaic", "grids": [[2, 2]]}}
    },
    "string": {"tiling": {**GRID, "overview": "squash"}},
    "string, no overview": {"tiling": {**GRID, "overview": "none"}},
}


@dataclass(frozen=True)
class Row:
    """One arm."""

    arm: str
    image_tokens: int
    context: int
    seen_tokens: int
    kv_bytes: int
    lm_gflops: float
    tower_passes: int
    vision_ms: float
    vision_step_ms: float
    prefill_ms: float
    step_ms: float
    prefill_over_plain: float
    step_over_plain: float
    whole_over_plain: float
    whole_over_string: float


class Arm:
    """One model with its inputs."""

    def __init__(self, name: str, image: Image.Image, options: argparse.Namespace) -> None:
        self.name = name
        spec = make_spec(ARMS[name], options)
        self.model, processor = initialise(spec, texts=["a?", "yes"])
        self.model.to(options.device).train()
        messages: list[dict[str, Any]] = [
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": image},
                    {"type": "text", "text": "a?" * options.text},
                ],
            },
            {"role": "assistant", "content": "yes"},
        ]
        prompt = processor.encode(messages, [image.size])
        tiles = processor.tiles(image)
        batch = processor.collate([prompt], [[tiles]], labels=True)
        self.batch: dict[str, Tensor] = {n: one.to(options.device) for n, one in batch.items()}
        self.images = Images(**{n: self.batch.get(n) for n in IMAGE_INPUTS})
        plan = processor.plan(*image.size)
        self.passes, self.tokens = len(tiles), processor.count(*image.size)
        self.seen = self.passes * self.model.layout.tokens if plan.zooms else self.tokens
        with torch.no_grad():
            self.embeddings, self.stacks = self._embed()
        self.best = dict.fromkeys(("vision", "vision_step", "prefill", "step"), float("inf"))

    def _embed(self) -> tuple[Tensor, Tensor | None]:
        return self.model.embed_stacked(self.batch["input_ids"], self.images)

    def vision(self) -> None:
        with torch.no_grad():
            self._embed()

    def vision_step(self) -> None:
        self.model.zero_grad()
        embeddings, stacks = self._embed()
        (embeddings.sum() + (0 if stacks is None else stacks.sum())).backward()

    def prefill(self) -> DynamicCache:
        cache = self.model.make_cache()
        with torch.no_grad():
            self.model(
                inputs_embeds=self.embeddings,
                stacks=self.stacks,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        return cache

    def step(self) -> None:
        self.model.zero_grad()
        embeddings = self.embeddings.detach().requires_grad_()
        stacks = None if self.stacks is None else self.stacks.detach().requires_grad_()
        out = self.model(inputs_embeds=embeddings, stacks=stacks, labels=self.batch["labels"])
        out.loss.backward()

    def work(self) -> dict[str, Callable[[], Any]]:
        return {
            "vision": self.vision,
            "vision_step": self.vision_step,
            "prefill": self.prefill,
            "step": self.step,
        }

    def clock(self, what: str) -> None:
        """Repeat a part of the work once."""
        begin = time.perf_counter()
        self.work()[what]()
        if self.embeddings.is_cuda:
            torch.cuda.synchronize()
        self.best[what] = min(self.best[what], (time.perf_counter() - begin) * 1e3)

    @property
    def whole(self) -> float:
        """Milliseconds of a whole training step."""
        return self.best["vision_step"] + self.best["step"]

    def kv_bytes(self) -> int:
        """Bytes of keys and values after the prefill."""
        layers = self.prefill().layers
        kept = [cast(Tensor, side) for layer in layers for side in (layer.keys, layer.values)]
        return sum(one.numel() * one.element_size() for one in kept)

    def gflops(self) -> float:
        """Of the language model's prefill."""
        with FlopCounterMode(display=False) as counter:
            self.prefill()
        return counter.get_total_flops() / 1e9


def make_spec(changes: dict[str, Any], options: argparse.Namespace) -> ModelSpec:
    config = {
        "model_type": "llama",
        "hidden_size": options.width,
        "intermediate_size": 3 * options.width,
        "num_hidden_layers": options.layers,
        "num_attention_heads": 8,
        "max_position_embeddings": 8192,
    }
    tower = {"kind": "small", "size": options.tile, "patch": 8, "hidden": 128, "depth": 4}
    language = {
        "kind": "transformers",
        "config": config,
        "tokenizer": {"kind": "train", "vocabulary": 300},
    }
    plain = {"towers": [tower], "language": language, "template": {"family": "compact"}}
    return ModelSpec.model_validate({**plain, **changes})


def measure(arms: Sequence[Arm], options: argparse.Namespace) -> list[Row]:
    for arm in arms:
        for work in arm.work().values():
            work()
    begin, repeats = time.perf_counter(), 0
    while repeats < options.repeats or time.perf_counter() - begin < options.seconds:
        for what in arms[0].best:
            for arm in arms:
                arm.clock(what)
        repeats += 1
    named = {arm.name: arm for arm in arms}
    return [row_of(arm, named["plain"], named["string"]) for arm in arms]


def row_of(arm: Arm, plain: Arm, string: Arm) -> Row:
    return Row(
        arm=arm.name,
        image_tokens=arm.tokens,
        context=arm.embeddings.shape[1],
        seen_tokens=arm.seen,
        kv_bytes=arm.kv_bytes(),
        lm_gflops=round(arm.gflops(), 3),
        tower_passes=arm.passes,
        vision_ms=round(arm.best["vision"], 2),
        vision_step_ms=round(arm.best["vision_step"], 2),
        prefill_ms=round(arm.best["prefill"], 2),
        step_ms=round(arm.best["step"], 2),
        prefill_over_plain=round(arm.best["prefill"] / plain.best["prefill"], 4),
        step_over_plain=round(arm.best["step"] / plain.best["step"], 4),
        whole_over_plain=round(arm.whole / plain.whole, 4),
        whole_over_string=round(arm.whole / string.whole, 4),
    )


def show(rows: Sequence[Row]) -> None:
    headings = {
        "context": lambda row: f"{row.context}",
        "tokens seen": lambda row: f"{row.seen_tokens}",
        "KV MB": lambda row: f"{row.kv_bytes / 1e6:.2f}",
        "LM GFLOPs": lambda row: f"{row.lm_gflops:.2f}",
        "tower passes": lambda row: f"{row.tower_passes}",
        "vision": lambda row: f"{row.vision_ms:.1f} ms",
        "prefill": lambda row: f"{row.prefill_ms:.1f} ms",
        "/ plain": lambda row: f"{row.prefill_over_plain:.3f}",
        "LM step": lambda row: f"{row.step_ms:.1f} ms",
        " / plain": lambda row: f"{row.step_over_plain:.3f}",
        "whole step / plain": lambda row: f"{row.whole_over_plain:.2f}",
        "/ string": lambda row: f"{row.whole_over_string:.2f}",
    }
    table = Table(title="DeepStack beside the plain model and the string of all tokens")
    table.add_column("arm")
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(row.arm, *(write(row) for write in headings.values()))
    Console(width=140).print(table)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller and shorter")
    parser.add_argument("--json", action="store_true", help="print one object instead of a table")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--width", type=int, default=384, help="of the language model")
    parser.add_argument("--layers", type=int, default=8, help="of the language model")
    parser.add_argument("--tile", type=int, default=192, help="side of a tile, 8 pixels a token")
    parser.add_argument("--text", type=int, default=32, help="words of the question")
    parser.add_argument("--seconds", type=float, default=60.0, help="of repetitions, at least")
    parser.add_argument("--repeats", type=int, default=5, help="of each arm, at least")
    options = parser.parse_args()
    if options.quick:
        options.width, options.tile, options.seconds, options.repeats = 256, 128, 10.0, 3
    return options


def main() -> None:
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    side = 2 * options.tile
    image = Image.effect_noise((side, side), 60).convert("RGB")
    rows = measure([Arm(name, image, options) for name in ARMS], options)
    if options.json:
        settings = {name: vars(options)[name] for name in ("width", "layers", "tile", "text")}
        print(json.dumps({"settings": settings, "rows": [asdict(row) for row in rows]}, indent=1))
    else:
        show(rows)


if __name__ == "__main__":
    main()
