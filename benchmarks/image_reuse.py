"""Time to the first token with images that are known, over a whole run and over prefix reuse.

    python benchmarks/image_reuse.py            576 visual tokens per image
    python benchmarks/image_reuse.py --quick    256 visual tokens per image, fewer repetitions
    python benchmarks/image_reuse.py --json     the same as JSON rows

A model with random weights and attention mmca talks about eight images. Timed is what a user waits
for: the question until the first token of its answer.

- reuse: a conversation with the image cache.
- full: transformers' `generate` on the whole dialogue, towers included, images already decoded.
- prefix: a conversation without the image cache. It keeps the keys and values of its own earlier
  rounds, and the tower features of all images: only the language model runs again, over what is
  not a beginning that has been run.

The three run in turn, and the fastest repetition of each counts. Their first tokens must agree.
"""

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from triptych.connectors import MlpConnector
from triptych.inference import Conversation, Engine, SamplingSpec
from triptych.language import TrainedTokenizer, TransformersLanguage
from triptych.model.build import initialise
from triptych.model.spec import ModelSpec, TemplateSpec
from triptych.towers.small import SmallTower

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
IMAGES = 8
FIRST = SamplingSpec(max_new_tokens=1)
ANSWER = SamplingSpec(max_new_tokens=12)
SYSTEMS = (
    "You are a careful assistant who looks at every picture before answering. Refer to pictures "
    "by their number, say when something cannot be seen, and keep to what the pictures show.",
    "Answer briefly. The reader checks drawings of machine parts for damage and knows the parts; "
    "name the picture and the place in it, and do not explain what a part is for.",
)
QUESTIONS = (
    "What do these two pictures show, and what do they have in common?",
    "Compare these two with the first ones. Which of them is the brightest?",
    "Is there anything in these that was not in the earlier pictures?",
    "Which of the last two would you choose, and why?",
    "Look at all pictures again: in which of them is the largest object on the left side?",
)
ALL_AT_ONCE = "Sort these eight pictures from the darkest to the brightest, by their numbers."


@dataclass(frozen=True)
class Row:
    """One line of the table; milliseconds to the first token."""

    case: str
    reuse_ms: float
    full_ms: float
    prefix_ms: float
    ratio_full: float
    ratio_prefix: float
    prefilled_tokens: int
    sequence_tokens: int


def model_spec(options: argparse.Namespace) -> ModelSpec:
    side = round(options.tokens**0.5)
    language: dict[str, Any] = {
        "model_type": "llama",
        "hidden_size": options.width,
        "intermediate_size": options.width * 8 // 3,
        "num_hidden_layers": options.layers,
        "num_attention_heads": options.width // 64,
        "num_key_value_heads": max(1, options.width // 128),
        "max_position_embeddings": 8192,
        "initializer_range": 0.05,
    }
    return ModelSpec(
        towers=(SmallTower(size=16 * side, patch=16, hidden=384, depth=6, heads=6),),
        connector=MlpConnector(),
        language=TransformersLanguage(config=language, tokenizer=TrainedTokenizer(vocabulary=512)),
        attention="mmca",
        template=TemplateSpec(family="compact", numbered="before"),
    )


class Setting:
    """One model with and without the image cache, and the images."""

    def __init__(self, options: argparse.Namespace) -> None:
        texts = [*SYSTEMS, *QUESTIONS, ALL_AT_ONCE, *(f"Image {k}:" for k in range(1, 9))]
        model, processor = initialise(model_spec(options), texts=texts)
        model.to(options.device, DTYPES[options.dtype]).eval()
        self.reusing = Engine(model, processor)
        self.plain = Engine(model, processor, image_cache=False)
        side = processor.tile_size
        self.pictures = [
            Image.fromarray(
                np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)
            )
            for seed in range(IMAGES)
        ]

    def dialogue(self, engine: Engine) -> Conversation:
        """Four rounds with two images each."""
        talk = Conversation(engine, SYSTEMS[0], ANSWER)
        for turn, question in enumerate(QUESTIONS[:4]):
            talk.reply(question, self.pictures[2 * turn : 2 * turn + 2])
        return talk

    def generate(self, talk: Conversation) -> Callable[[], int]:
        """The first token after the tokens of ``talk`` by `generate`, from pixels."""
        model, processor = self.plain.model, self.plain.processor
        ids = torch.tensor([talk.ids[: talk.rounds[-1].prompt_tokens]], device=model.device)
        sources = [one.picture.source for one in talk.images]
        tiles = [torch.from_numpy(processor.tiles(source)) for source in sources]
        inputs = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values": torch.cat(tiles).to(model.device),
            "tiles_per_image": torch.tensor([len(one) for one in tiles], device=model.device),
            "images_per_sample": torch.tensor([len(tiles)], device=model.device),
        }

        def run() -> int:
            with torch.no_grad():
                out = model.generate(**inputs, max_new_tokens=1, do_sample=False)
            return int(out[0, -1])

        return run


def first_token(talk: Conversation) -> int:
    """The token that the latest round began with, the end token included."""
    tokens = talk.rounds[-1].answer.tokens
    return tokens[0] if tokens else min(talk.engine.stop_ids)


def round_5(setting: Setting, options: argparse.Namespace) -> Row:
    talks = [setting.dialogue(engine) for engine in (setting.reusing, setting.plain)]

    def ask(talk: Conversation) -> Callable[[], int]:
        def run() -> int:
            if len(talk.rounds) == 5:
                talk.undo()
            talk.reply(QUESTIONS[4], sampling=FIRST)
            return first_token(talk)

        return run

    return compare("round 5 of a dialogue", setting, talks, [ask(talk) for talk in talks], options)


def new_conversation(
    setting: Setting, options: argparse.Namespace, case: str, system: str, order: list[int]
) -> Row:
    """All images are known from the dialogue before."""
    pictures = [setting.pictures[place] for place in order]
    talks = [Conversation(engine, system) for engine in (setting.reusing, setting.plain)]

    def ask(talk: Conversation) -> Callable[[], int]:
        def run() -> int:
            talk.clear()
            talk.reply(ALL_AT_ONCE, pictures, FIRST)
            return first_token(talk)

        return run

    return compare(case, setting, talks, [ask(talk) for talk in talks], options)


def compare(
    case: str,
    setting: Setting,
    talks: list[Conversation],
    asks: list[Callable[[], int]],
    options: argparse.Namespace,
) -> Row:
    tokens = [ask() for ask in asks]
    runs = [*asks, setting.generate(talks[0])]
    tokens.append(runs[2]())
    if len({*tokens}) > 1:
        sys.exit(f"{case}: the first tokens are {tokens}, they must be equal")
    best = [float("inf")] * 3
    for _ in range(options.repeats):
        for place, run in enumerate(runs):
            best[place] = min(best[place], clock(run))
    reuse, prefix, full = best
    last = talks[0].rounds[-1]
    return Row(
        case,
        round(reuse, 1),
        round(full, 1),
        round(prefix, 1),
        round(full / reuse, 2),
        round(prefix / reuse, 2),
        last.prefilled_tokens,
        last.prompt_tokens,
    )


def clock(run: Callable[[], int]) -> float:
    gc.collect()
    begin = time.perf_counter()
    run()
    return (time.perf_counter() - begin) * 1e3


def show(rows: list[Row]) -> None:
    table = Table(title="Milliseconds to the first token")
    for name in ("case", "reuse", "full", "prefix", "full / reuse", "prefix / reuse"):
        table.add_column(name, justify="left" if name == "case" else "right")
    table.add_column("tokens run", justify="right")
    table.add_column("of", justify="right")
    for row in rows:
        times = [f"{one:.1f}" for one in (row.reuse_ms, row.full_ms, row.prefix_ms)]
        ratios = [f"{one:.1f}" for one in (row.ratio_full, row.ratio_prefix)]
        table.add_row(
            row.case, *times, *ratios, str(row.prefilled_tokens), str(row.sequence_tokens)
        )
    Console(width=120).print(table)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller images, fewer repetitions")
    parser.add_argument("--json", action="store_true", help="print rows instead of a table")
    parser.add_argument("--tokens", type=int, default=None, help="per image, a square number")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=None)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    options.tokens = options.tokens or (256 if options.quick else 576)
    options.repeats = options.repeats or (3 if options.quick else 5)
    return options


def main() -> None:
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    setting = Setting(options)
    order = list(range(IMAGES))
    rows = [
        round_5(setting, options),
        new_conversation(setting, options, "new conversation, new system text", SYSTEMS[1], order),
        new_conversation(
            setting, options, "new conversation, other order", SYSTEMS[0], order[::-1]
        ),
    ]
    if options.json:
        print(json.dumps({"rows": [asdict(row) for row in rows]}, indent=1))
    else:
        show(rows)


if __name__ == "__main__":
    main()
