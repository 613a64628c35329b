"""The table of published recipes: parameters, tokens, GPUs.

    python benchmarks/published.py            a table in markdown, as docs/recipes.md has it
    python benchmarks/published.py --quick    the same
    python benchmarks/published.py --json     one JSON object

The fewest GPUs of 80 GB are those of the stage that needs the most, with the parameters spread over
them (fsdp2) and an image of 640 x 480 and 256 tokens of text in each sample.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from triptych.planning.plan import plan
from triptych.planning.stage import GB, Hardware
from triptych.recipe import load_recipe

FOLDER = Path(__file__).parents[1] / "recipes" / "published"


def describe(path: Path) -> dict[str, Any]:
    made = plan(load_recipe(path), Hardware(8, 80 * GB))
    stage = made.largest
    eight = stage.memory("fsdp2", 8)
    return {
        "total": sum(made.parts.values()),
        "trainable": max(sum(one.trains.values()) for one in made.stages),
        "tokens": stage.workload.visual[0],
        "tiles": stage.workload.tiles,
        "tflop": round(stage.flops_per_sample / 1e12, 2),
        "fewest": stage.fewest_gpus("fsdp2", 80 * GB),
        "eight": round(eight.total / GB, 1),
        "largest": stage.largest_batch("fsdp2", 8, 80 * GB),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the same: it takes seconds")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    rows = {path.stem: describe(path) for path in sorted(FOLDER.glob("*.yaml"))}
    if options.json:
        print(json.dumps(rows))
        return
    heads = ["recipe", "parameters", "train", "tokens, tiles of 640 x 480", "TFLOP a sample"]
    heads += ["fewest 80 GB GPUs", "GB on each of 8", "largest micro-batch on 8"]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for name, row in rows.items():
        cells = [
            f"[{name}](../recipes/published/{name}.yaml)",
            f"{row['total'] / 1e9:.2f} B",
            f"{row['trainable'] / 1e6:,.0f} M",
            f"{row['tokens']}, {row['tiles']}",
            f"{row['tflop']:g}",
            str(row["fewest"] or "-"),
            f"{row['eight']:g}",
            str(row["largest"]),
        ]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
