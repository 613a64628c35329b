"""Useful tokens and supervised tokens per second: padded, grouped by length, packed; in one run.

    python benchmarks/packing.py              the mixture of the quickstart, all images
    python benchmarks/packing.py --quick      fewer images and steps
    python benchmarks/packing.py --json       one JSON object

The mixture is real: easy-VQA conversations over one to four images, from one question to long
talks, with the quickstart recipe's model, template and token budget. Every mode plans one epoch of
the same samples under the same two budgets. ``padded`` takes them in random order, ``grouped``
sorts windows by length, ``packed`` joins samples into rows. The share of useful tokens is that of
the whole epoch: tokens over the positions that are computed; that of the budget is tokens over
what the micro-batches might have held. Speed is that of forward and backward
passes over micro-batches that are ready, with cached tower features; the modes take turns, and
supervised tokens are divided by the time of all timed micro-batches of a mode.
"""

import argparse
import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from triptych.data.corpus import Corpus, measure
from triptych.data.encode import Encoder
from triptych.data.plan import form, join_sizes
from triptych.data.spec import BatchSpec, SourceSpec
from triptych.language.head import IGNORE
from triptych.model.build import initialise
from triptych.model.modeling import TriptychForConditionalGeneration
from triptych.recipe import load_recipe
from triptych.synth.dialogue import easy_vqa
from triptych.training.run import training_texts

RECIPE = Path(__file__).parents[1] / "recipes" / "quickstart.yaml"
SOURCES = ("full-single", "full-named", "talk")


@dataclass(frozen=True)
class Row:
    """One mode."""

    mode: str
    useful_share: float
    budget_share: float
    supervised_tokens_per_s: float
    tokens_per_s: float
    micro_batches: int
    samples_per_micro_batch: float


class Batches:
    """The micro-batches of one mode, made when they are asked for."""

    def __init__(self, mode: str, corpus: Corpus, encoder: Encoder, batch: BatchSpec) -> None:
        self.mode, self.corpus, self.encoder = mode, corpus, encoder
        self.sizes = join_sizes([source.sizes for source in corpus.sources])
        order = np.random.default_rng(0).permutation(len(self.sizes))
        self.batch = batch.model_copy(update={"packed": mode == "packed"})
        window = 1 << 30 if mode == "padded" else batch.window
        self.plan: list[list[int]] = []
        for start in range(0, len(order), window):
            part = order[start : start + window]
            self.plan += self._in_order(part) if mode == "padded" else self._formed(part)
        np.random.default_rng(1).shuffle(self.plan)

    @property
    def useful_share(self) -> float:
        """Tokens over computed positions, of the whole epoch."""
        lengths = [self.sizes[part, 0] for part in self.plan]
        packed = self.mode == "packed"
        computed = sum(one.sum() if packed else one.max() * len(one) for one in lengths)
        return float(sum(one.sum() for one in lengths) / computed)

    @property
    def budget_share(self) -> float:
        """Tokens over the token budget of all micro-batches."""
        return float(self.sizes[:, 0].sum() / (len(self.plan) * self.batch.tokens))

    def make(self, index: int, shape: tuple[int, int]) -> dict[str, Tensor]:
        """Micro-batch ``index`` with random features of ``shape`` in place of images."""
        prompts, tiles = [], []
        for number in self.plan[index % len(self.plan)]:
            sample = self.encoder.sample(self.corpus.record(number))
            assert sample is not None
            prompts.append(sample.prompt)
            rng = np.random.default_rng(number)
            tiles.append(
                [rng.standard_normal((1, *shape), np.float32) for _ in sample.record.images]
            )
        packed = self.mode == "packed"
        return self.encoder.processor.collate(prompts, tiles, labels=True, packed=packed)

    def _formed(self, part: np.ndarray) -> list[list[int]]:
        return form(part, self.sizes, self.batch)

    def _in_order(self, part: np.ndarray) -> list[list[int]]:
        plan: list[list[int]] = []
        longest = tiles = 0
        for index in part.tolist():
            tokens, own = self.sizes[index].tolist()
            rows = len(plan[-1]) + 1 if plan else 1
            full = rows * max(longest, tokens) > self.batch.tokens
            if not plan or full or tiles + own > self.batch.tiles:
                plan.append([])
                longest = tiles = 0
            plan[-1].append(index)
            longest, tiles = max(longest, tokens), tiles + own
        return plan


def mixture(folder: Path, limit: int | None) -> dict[str, SourceSpec]:
    """Build the data and name its files."""
    easy_vqa.build(folder, easy_vqa.Plan(limit=limit), replace_other=True)
    return {name: SourceSpec(path=folder / f"train-{name}.jsonl") for name in SOURCES}


def step(model: TriptychForConditionalGeneration, batch: dict[str, Tensor]) -> float:
    """Seconds of one forward and backward pass."""
    model.zero_grad()
    begin = time.perf_counter()
    model(**batch, use_cache=False).loss.backward()
    return time.perf_counter() - begin


def run(options: argparse.Namespace, folder: Path) -> list[Row]:
    """Plan, time and sum up all modes."""
    recipe = load_recipe(RECIPE, [])
    sources = mixture(folder, 300 if options.quick else None)
    data = recipe.data.model_copy(update={"sources": sources, "workers": 0})
    texts = training_texts(data)
    model, processor = initialise(recipe.model, seed=0, texts=texts)
    model.float().train()
    model.attend_by_document()
    for parameter in model.towers.parameters():
        parameter.requires_grad_(False)
    encoder = Encoder(processor, data)
    corpus = measure(sources, encoder)
    tokens = options.tokens or data.batch.tokens
    budget = data.batch.model_copy(update={"tokens": tokens})
    modes = [Batches(mode, corpus, encoder, budget) for mode in ("padded", "grouped", "packed")]
    shape = (model.tower_layout.tokens, model.tower_width)
    count = options.steps or (12 if options.quick else 60)
    seconds, learned, read = np.zeros(3), np.zeros(3), np.zeros(3)
    for index in range(-2, count):
        for mode, batches in enumerate(modes):
            batch = batches.make(index, shape)
            taken = step(model, batch)
            if index >= 0:
                seconds[mode] += taken
                learned[mode] += int((batch["labels"][:, 1:] != IGNORE).sum())
                read[mode] += int(batch["attention_mask"].sum())
    return [
        Row(
            mode=one.mode,
            useful_share=round(one.useful_share, 4),
            budget_share=round(one.budget_share, 4),
            supervised_tokens_per_s=round(learned[k] / seconds[k], 1),
            tokens_per_s=round(read[k] / seconds[k], 1),
            micro_batches=len(one.plan),
            samples_per_micro_batch=round(len(one.sizes) / len(one.plan), 2),
        )
        for k, one in enumerate(modes)
    ]


def show(rows: list[Row]) -> None:
    table = Table(
        "mode", "useful", "of budget", "supervised/s", "tokens/s", "micro-batches", "x padded"
    )
    for row in rows:
        table.add_row(
            row.mode,
            f"{row.useful_share:.1%}",
            f"{row.budget_share:.1%}",
            f"{row.supervised_tokens_per_s:.0f}",
            f"{row.tokens_per_s:.0f}",
            str(row.micro_batches),
            f"{row.supervised_tokens_per_s / rows[0].supervised_tokens_per_s:.2f}",
        )
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer images and steps")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--steps", type=int, default=None, help="timed micro-batches of each mode")
    parser.add_argument("--tokens", type=int, default=None, help="budget; default: the recipe's")
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        rows = run(options, Path(folder) / "easy-vqa")
    if not options.json:
        show(rows)
        return
    ratio = rows[2].supervised_tokens_per_s / rows[0].supervised_tokens_per_s
    report = {"rows": [asdict(row) for row in rows], "packed_over_padded": round(ratio, 3)}
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
