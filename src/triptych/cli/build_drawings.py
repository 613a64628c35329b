"""`triptych data build drawings` and `pasted`: emoji and clip art, asked about and marked."""

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
from triptych.synth.drawings import pasted
from triptych.synth.drawings.builder import Drawings, open_packages, packages
from triptych.synth.drawings.pasted import Pasted
from triptych.synth.marks.grounds import WALLPAPERS

DEFAULT = Drawings(())

app = typer.Typer()


@app.command("drawings")
def build_drawings(
    out: Out,
    seed: Seed = DEFAULT.seed,
    size: Annotated[
        int, typer.Option(min=16, max=2048, help="Side of a picture in pixels.")
    ] = DEFAULT.size,
    share: Annotated[
        float, typer.Option(min=0.01, max=0.9, help="Share of concepts and designs held out.")
    ] = DEFAULT.share,
    scenes: Annotated[
        int, typer.Option(min=0, help="Training sheets with several drawings.")
    ] = DEFAULT.scenes,
    test_scenes: Annotated[
        int, typer.Option(min=0, help="Held-out sheets with several drawings.")
    ] = DEFAULT.test_scenes,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only so many drawings of each side of the split.")
    ] = None,
    copyleft: Copyleft = False,
    workers: Workers = None,
    ray: Ray = False,
    cache: Cache = None,
    source: Source = None,
    replace: Replace = False,
) -> None:
    """Emoji and clip art with questions; unseen designs and unseen concepts are held out."""
    shelf = open_shelf(packages(copyleft=copyleft), cache, source)
    folders = open_packages(shelf, copyleft=copyleft)
    builder = Drawings(folders, seed, size, share, scenes, test_scenes, limit)
    run_builder(builder, out, workers=workers, ray=ray, replace=replace)


@app.command("pasted")
def build_pasted(
    out: Out,
    seed: Seed = pasted.DEFAULT.seed,
    size: Annotated[
        int, typer.Option(min=64, max=2048, help="Side of a picture in pixels.")
    ] = pasted.DEFAULT.size,
    share: Annotated[
        float, typer.Option(min=0.01, max=0.9, help="Share of concepts and wallpapers held out.")
    ] = pasted.DEFAULT.share,
    train: Annotated[int, typer.Option(min=1, help="Training pictures.")] = pasted.DEFAULT.train,
    test: Annotated[int, typer.Option(min=1, help="Held-out pictures.")] = pasted.DEFAULT.test,
    copyleft: Copyleft = False,
    workers: Workers = None,
    ray: Ray = False,
    cache: Cache = None,
    source: Source = None,
    replace: Replace = False,
) -> None:
    """Set-of-Mark on drawings that are pasted on a ground; unseen concepts are held out."""
    used = packages(copyleft=copyleft)
    shelf = open_shelf([*used, WALLPAPERS] if copyleft else used, cache, source)
    wallpapers = shelf.open(WALLPAPERS) if copyleft else None
    folders = open_packages(shelf, copyleft=copyleft)
    builder = Pasted(folders, wallpapers, seed, size, share, train, test)
    run_builder(builder, out, workers=workers, ray=ray, replace=replace)
