"""When caching the features of frozen towers pays: an epoch with and without, in one run.

    python benchmarks/feature_cache.py           three towers, 64 pictures
    python benchmarks/feature_cache.py --quick   two towers, 16 pictures
    python benchmarks/feature_cache.py --json    the same as one JSON object

Without the cache every epoch decodes, crops and encodes every picture. With it they are decoded
and encoded once more, before training (``build``), and every epoch reads the features. The cache
pays from the epoch on in which the sum with it is the smaller one, as long as the disk delivers the
features faster than the towers make them (``disk needed``): what is read here is still in memory.
Weights are random, which changes no time. The fastest repetition counts.
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from triptych.data.features import FeatureCache
from triptych.data.schema import ImagePart
from triptych.images.decode import open_image
from triptych.language import TrainedTokenizer, TransformersLanguage
from triptych.model.build import initialise
from triptych.model.modeling import TriptychForConditionalGeneration
from triptych.model.processing import TriptychProcessor
from triptych.model.spec import ModelSpec
from triptych.towers import SmallTower, TowerSpec, TransformersTower

SIDE = 224


def vit(width: int, layers: int) -> TransformersTower:
    """A DINOv2 of patch 14 at 224 px, 256 tokens."""
    return TransformersTower(
        size=SIDE,
        config={
            "model_type": "dinov2",
            "hidden_size": width,
            "num_hidden_layers": layers,
            "num_attention_heads": width // 64,
            "image_size": 518,
            "patch_size": 14,
        },
    )


TOWERS: dict[str, TowerSpec] = {
    "small (1M)": SmallTower(size=SIDE, patch=16),
    "ViT-S/14": vit(384, 12),
    "ViT-B/14": vit(768, 12),
}
LANGUAGE = TransformersLanguage(
    config={"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 1, "vocab_size": 300},
    tokenizer=TrainedTokenizer(vocabulary=300),
)


@dataclass(frozen=True)
class Row:
    """One line of the table; times are per picture."""

    tower: str
    encode_ms: float
    build_ms: float
    read_ms: float
    ratio: float
    pays_from_epoch: int | None
    kib: float
    disk_needed_mb_s: float


def pictures(folder: Path, count: int) -> list[ImagePart]:
    """JPEG files of 640 x 480 pixels with some structure."""
    generator = np.random.default_rng(0)
    for number in range(count):
        coarse = generator.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number}.jpg", quality=90)
    return [ImagePart(f"{number}.jpg", folder) for number in range(count)]


def fastest(work: Callable[[], Any], repeats: int) -> float:
    """Seconds of the fastest of several repetitions."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


def encode_all(
    model: TriptychForConditionalGeneration,
    processor: TriptychProcessor,
    parts: list[ImagePart],
    batch: int,
) -> None:
    """What an epoch without the cache does for the language model."""
    for start in range(0, len(parts), batch):
        tiles = [processor.tiles(open_image(p.location)) for p in parts[start : start + batch]]
        with torch.inference_mode():
            model.encode_tiles(torch.from_numpy(np.concatenate(tiles)).to(model.device))


def measure(name: str, folder: Path, parts: list[ImagePart], options: argparse.Namespace) -> Row:
    """Time one tower."""
    spec = ModelSpec(towers=(TOWERS[name],), language=LANGUAGE)
    model, processor = initialise(spec, texts=["a"])
    model.to(options.device).eval()
    built: list[FeatureCache] = []

    def build() -> None:
        fingerprint = str(len(built))
        built.append(
            FeatureCache.build(
                folder / name.split("/")[0],
                fingerprint,
                parts,
                processor,
                model.encode_tiles,
                device=options.device,
                batch_tiles=options.batch,
            )
        )

    def read() -> None:
        for part in parts:
            torch.from_numpy(built[-1].get(part)).to(options.device)

    encode_s = fastest(lambda: encode_all(model, processor, parts, options.batch), options.repeats)
    build_s, read_s = fastest(build, options.repeats), fastest(read, options.repeats)
    count, saved = len(parts), encode_s - read_s
    size = built[-1].get(parts[0]).nbytes
    return Row(
        tower=name,
        encode_ms=1e3 * encode_s / count,
        build_ms=1e3 * build_s / count,
        read_ms=1e3 * read_s / count,
        ratio=encode_s / read_s,
        pays_from_epoch=math.floor(build_s / saved) + 1 if saved > 0 else None,
        kib=size / 1024,
        disk_needed_mb_s=size * count / encode_s / 1e6,
    )


def show(rows: list[Row]) -> None:
    """Print the table."""
    table = Table(title="a picture, in ms", title_justify="left")
    headings = ("tower", "decode + encode", "build", "read", "ratio", "pays from epoch", "KiB")
    for heading in (*headings, "disk needed"):
        table.add_column(heading, justify="left" if heading == "tower" else "right")
    for row in rows:
        table.add_row(
            row.tower,
            f"{row.encode_ms:.1f}",
            f"{row.build_ms:.1f}",
            f"{row.read_ms:.2f}",
            f"{row.ratio:.0f}x",
            "never" if row.pays_from_epoch is None else str(row.pays_from_epoch),
            f"{row.kib:.0f}",
            f"{row.disk_needed_mb_s:.1f} MB/s",
        )
    Console().print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="two towers, 16 pictures")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pictures", type=int)
    parser.add_argument("--batch", type=int, default=16, help="pictures encoded at once")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    names = list(TOWERS)[: 2 if options.quick else None]
    count = options.pictures or (16 if options.quick else 64)
    with tempfile.TemporaryDirectory() as folder:
        parts = pictures(Path(folder), count)
        rows = [measure(name, Path(folder), parts, options) for name in names]
    if options.json:
        print(json.dumps({"pictures": count, "rows": [asdict(row) for row in rows]}))
    else:
        show(rows)


if __name__ == "__main__":
    main()
