"""`triptych data build manuals`: interleaved documents from HTML manuals."""

from typing import Annotated

import typer

from triptych.cli.build_options import (
    Cache,
    Copyleft,
    Out,
    Ray,
    Replace,
    Source,
    Workers,
    open_shelf,
    run_builder,
)
from triptych.synth.manuals.builder import Manuals, open_packages, packages

DEFAULT = Manuals(())

app = typer.Typer()


@app.command("manuals")
def build_manuals(
    out: Out,
    share: Annotated[
        float, typer.Option(min=0.01, max=0.9, help="Share of the pages held out.")
    ] = DEFAULT.share,
    copyleft: Copyleft = False,
    workers: Workers = None,
    ray: Ray = False,
    cache: Cache = None,
    source: Source = None,
    replace: Replace = False,
) -> None:
    """Documents of two to six pictures and their text, from the manuals of real programs."""
    shelf = open_shelf(packages(copyleft=copyleft), cache, source)
    builder = Manuals(open_packages(shelf, copyleft=copyleft), share=share)
    run_builder(builder, out, workers=workers, ray=ray, replace=replace)
