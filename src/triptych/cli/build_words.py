"""`triptych data build words`: questions about WordNet's nouns, without images."""

from typing import Annotated

import typer

from triptych.cli.build_options import (
    Cache,
    Out,
    Ray,
    Replace,
    Seed,
    Source,
    Workers,
    open_shelf,
    run_builder,
)
from triptych.synth.drawings.catalogue import WORDNET
from triptych.synth.words.definitions import DEFAULT, Words

app = typer.Typer()


@app.command("words")
def build_words(
    out: Out,
    seed: Seed = DEFAULT.seed,
    share: Annotated[
        float, typer.Option(min=0.01, max=0.9, help="Share of the concepts held out.")
    ] = DEFAULT.share,
    limit: Annotated[
        int | None, typer.Option(min=8, help="Only so many nouns of each side of the split.")
    ] = None,
    workers: Workers = None,
    ray: Ray = False,
    cache: Cache = None,
    source: Source = None,
    replace: Replace = False,
) -> None:
    """Meanings and kinds of nouns, text only; held out by the concepts of `drawings`."""
    shelf = open_shelf([WORDNET], cache, source)
    builder = Words(shelf.open(WORDNET), seed, share, limit)
    run_builder(builder, out, workers=workers, ray=ray, replace=replace)
