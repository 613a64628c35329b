"""`triptych data build maps`: questions about marked regions of maps."""

from typing import Annotated

import typer

from triptych.cli.build_options import (
    Cache,
    Copyleft,
    Out,
    Ray,
    Replace,
    Seed,
    Source,
    Workers,
    open_shelf,
    run_builder,
)
from triptych.synth.maps.builder import ATLAS, DEFAULT, KGEOGRAPHY, Maps, packages

app = typer.Typer()


@app.command("maps")
def build_maps(
    out: Out,
    seed: Seed = DEFAULT.seed,
    views: Annotated[
        int, typer.Option(min=1, help="Maps of each part of the world, with other marks.")
    ] = DEFAULT.views,
    share: Annotated[
        float, typer.Option(min=0.01, max=0.9, help="Share of maps held out.")
    ] = DEFAULT.share,
    copyleft: Copyleft = False,
    workers: Workers = None,
    ray: Ray = False,
    cache: Cache = None,
    source: Source = None,
    replace: Replace = False,
) -> None:
    """Set-of-Mark on maps: numbered regions, asked by colour, place, size, neighbour and name."""
    shelf = open_shelf(packages(copyleft=copyleft), cache, source)
    kgeography = shelf.open(KGEOGRAPHY) if copyleft else None
    builder = Maps(shelf.open(ATLAS), kgeography, seed, views, share)
    run_builder(builder, out, workers=workers, ray=ray, replace=replace)
