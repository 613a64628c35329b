"""What a tiling costs: visual tokens, tower passes and the time of a training step.

One image of noise of each shape, from 1:1 to 8:1, goes through the same small model under every
tiling; tower, connector and language model train. Steps of all tilings take turns, and the fastest
counts. Equal tiles, such as those of padding alone, are one tower pass. ``time / fixed`` compares
with one tile, ``skip / none`` the same grid with and without skipping tiles that are all padding.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

from triptych.connectors import PixelShuffleConnector
from triptych.images import AnyresTiling, FixedTiling, GridTiling, TilingSpec
from triptych.language import TrainedTokenizer, TransformersLanguage
from triptych.model import TriptychForConditionalGeneration, TriptychProcessor
from triptych.model.build import initialise
from triptych.model.spec import ModelSpec, TemplateSpec
from triptych.towers.small import SmallTower

RATIOS = (1, 2, 3, 4, 6, 8)
TILINGS: dict[str, TilingSpec] = {
    "fixed": FixedTiling(fit="pad"),
    "grid 2x2": GridTiling(side=2, skip="none"),
    "grid 2x2 + skip": GridTiling(side=2),
    "grid 3x3": GridTiling(side=3, skip="none"),
    "grid 3x3 + skip": GridTiling(side=3),
    "anyres": AnyresTiling(max_tiles=9, one_tile=True),
    "anyres + unpad": AnyresTiling(max_tiles=9, one_tile=True, unpad=True),
}


@dataclass(frozen=True)
class Row:
    """One shape under one tiling."""

    ratio: str
    tiling: str
    tokens: int
    tiles: int
    passes: int
    step_ms: float
    over_fixed: float
    over_no_skip: float | None


class Step:
    """A training step of one image under one tiling."""

    def __init__(self, name: str, tiling: TilingSpec, options: argparse.Namespace) -> None:
        self.name = name
        model, self.processor = make_model(tiling, options)
        self.model = model.to(options.device).train()

    def prepare(self, image: Image.Image) -> None:
        messages: list[dict[str, Any]] = [
            {
                "role": "user",
                "content": [{"type": "image", "image": image}, {"type": "text", "text": "a?"}],
            },
            {"role": "assistant", "content": "yes"},
        ]
        prompt = self.processor.encode(messages, [image.size])
        tiles = [[self.processor.tiles(image)]]
        batch = self.processor.collate([prompt], tiles, labels=True)
        device = next(self.model.parameters()).device
        self.batch: dict[str, Tensor] = {name: one.to(device) for name, one in batch.items()}
        self.tokens = self.processor.count(*image.size)
        self.tiles = len(tiles[0][0])
        self.passes = len(batch["pixel_values"])
        self.best = float("inf")

    def run(self) -> None:
        begin = time.perf_counter()
        self.model.zero_grad()
        self.model(**self.batch).loss.backward()
        if self.batch["input_ids"].is_cuda:
            torch.cuda.synchronize()
        self.best = min(self.best, (time.perf_counter() - begin) * 1e3)


def make_model(
    tiling: TilingSpec, options: argparse.Namespace
) -> tuple[TriptychForConditionalGeneration, TriptychProcessor]:
    config = {
        "model_type": "llama",
        "hidden_size": options.width,
        "intermediate_size": 3 * options.width,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": 4096,
    }
    spec = ModelSpec(
        towers=(SmallTower(size=64, patch=8, hidden=options.width, depth=4, heads=4),),
        tiling=tiling,
        connector=PixelShuffleConnector(factor=2),
        language=TransformersLanguage(config=config, tokenizer=TrainedTokenizer(vocabulary=300)),
        template=TemplateSpec(family="compact"),
    )
    return initialise(spec, texts=["a?", "yes"])


def measure(ratio: int, steps: Sequence[Step], options: argparse.Namespace) -> list[Row]:
    image = Image.effect_noise((768, 768 // ratio), 60).convert("RGB")
    for step in steps:
        step.prepare(image)
        step.run()
    begin, repeats = time.perf_counter(), 0
    while repeats < 3 or time.perf_counter() - begin < options.seconds:
        for step in steps:
            step.run()
        repeats += 1
    best = {step.name: step.best for step in steps}
    return [
        Row(
            f"{ratio}:1",
            step.name,
            step.tokens,
            step.tiles,
            step.passes,
            round(step.best, 2),
            round(step.best / best["fixed"], 3),
            round(step.best / best[whole], 3)
            if (whole := step.name.removesuffix(" + skip")) != step.name
            else None,
        )
        for step in steps
    ]


def show(rows: Sequence[Row]) -> None:
    table = Table(title="one image of 768 x 768 / ratio, tiles of 64, 16 visual tokens a tile")
    for name in ("shape", "tiling", "tokens", "tiles", "tower passes", "step", "time / fixed"):
        table.add_column(name, justify="left" if name == "tiling" else "right")
    table.add_column("skip / none", justify="right")
    for row in rows:
        table.add_row(
            row.ratio,
            row.tiling,
            str(row.tokens),
            str(row.tiles),
            str(row.passes),
            f"{row.step_ms:.1f} ms",
            f"{row.over_fixed:.2f}",
            "" if row.over_no_skip is None else f"{row.over_no_skip:.2f}",
        )
    Console(width=110).print(table)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three shapes, few repeats")
    parser.add_argument("--json", action="store_true", help="print rows instead of a table")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=4.0, help="per shape, at least")
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.quick:
        options.seconds = 0.0
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    steps = [Step(name, tiling, options) for name, tiling in TILINGS.items()]
    ratios = (1, 2, 8) if options.quick else RATIOS
    rows = [row for ratio in ratios for row in measure(ratio, steps, options)]
    if options.json:
        print(json.dumps({"rows": [asdict(row) for row in rows]}, indent=1))
    else:
        show(rows)


if __name__ == "__main__":
    main()
