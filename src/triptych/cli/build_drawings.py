"""`triptych data build drawings`: questions about emoji and clip art."""

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
    make_shelf,
    print_packages,
    run_builder,
)
from triptych.synth.drawings.builder import Drawings, open_packages, packages

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
    shelf = make_shelf(cache, source)
    print_packages(packages(copyleft=copyleft), shelf)
    folders = open_packages(shelf, copyleft=copyleft)
    builder = Drawings(folders, seed, size, share, scenes, test_scenes, limit)
    run_builder(builder, out, workers=workers, ray=ray, replace=replace)
