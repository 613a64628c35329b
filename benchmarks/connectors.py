"""What connectors cost at the size of SigLIP so400m at 384 px and a 3072 wide language model.

    python benchmarks/connectors.py           tokens, parameters and work of a tile; time over mlp
    python benchmarks/connectors.py --quick   the same without the times
    python benchmarks/connectors.py --json    the same as one JSON object

The tower gives 27 x 27 tokens of width 1152 for a tile. Tokens, parameters and multiplications are
counted without memory or weights; the times are the fastest of several passes of two tiles.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from triptych.connectors import (
    ConnectorSpec,
    LinearConnector,
    MlpConnector,
    PerceiverConnector,
    PixelShuffleConnector,
    QFormerConnector,
    VitConnector,
)
from triptych.images.layout import TileLayout

TILE, WIDTH, OUT = TileLayout(27, 27), 1152, 3072
CONNECTORS: dict[str, ConnectorSpec] = {
    "linear": LinearConnector(),
    "mlp": MlpConnector(),
    "mlp, pool 2, max": MlpConnector(pool=2, pooling="max"),
    "pixel_shuffle, factor 3": PixelShuffleConnector(factor=3),
    "vit": VitConnector(),
    "perceiver": PerceiverConnector(),
    "perceiver, 64 latents, depth 2": PerceiverConnector(latents=64, depth=2),
    "qformer": QFormerConnector(),
}


@dataclass(frozen=True)
class Row:
    """One line of the table, for one tile."""

    connector: str
    tokens: int
    parameters: int
    gflops: float
    ratio: float | None


def count_work(module: nn.Module) -> float:
    """Floating-point operations of a tile in units of 1e9, two for a multiplication and addition.

    ``module`` is on the meta device, where attention is computed as two matrix products.
    """
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        module(torch.zeros(1, TILE.tokens, WIDTH, device="meta"))
    return counter.get_total_flops() / 1e9


@torch.inference_mode()
def seconds(module: nn.Module, repeats: int) -> float:
    """Fastest of several passes of two tiles."""
    features = torch.randn(2, TILE.tokens, WIDTH)
    times = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        module(features)
        times.append(time.perf_counter() - begin)
    return min(times[1:])


def measure(options: argparse.Namespace) -> list[Row]:
    """Count every connector, and time it unless ``--quick`` says not to."""
    mlp = 0.0 if options.quick else seconds(MlpConnector().build(TILE, WIDTH, OUT), options.repeats)
    rows = []
    for name, spec in CONNECTORS.items():
        with torch.device("meta"):
            module = spec.build(TILE, WIDTH, OUT).eval()
        parameters = sum(parameter.numel() for parameter in module.parameters())
        work, ratio = count_work(module), None
        if not options.quick:
            built = spec.build(TILE, WIDTH, OUT).eval()
            ratio = seconds(built, options.repeats) / mlp
        rows.append(Row(name, spec.layout(TILE).tokens, parameters, work, ratio))
    return rows


def show(rows: list[Row]) -> None:
    """Print the table."""
    table = Table(title="a tile of 27 x 27 tokens, 1152 -> 3072", title_justify="left")
    for heading in ("connector", "visual tokens", "parameters", "GFLOPs", "time over mlp"):
        table.add_column(heading, justify="left" if heading == "connector" else "right")
    for row in rows:
        ratio = "-" if row.ratio is None else f"{row.ratio:.2f}x"
        table.add_row(
            row.connector, str(row.tokens), f"{row.parameters:,}", f"{row.gflops:.1f}", ratio
        )
    Console().print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="count only")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rows = measure(options)
    if options.json:
        print(json.dumps({"rows": [asdict(row) for row in rows]}))
    else:
        show(rows)


if __name__ == "__main__":
    main()
