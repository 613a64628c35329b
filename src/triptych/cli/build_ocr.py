"""`triptych data build pdf`: questions about pages of PDF files."""

from pathlib import Path
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
    numbers,
    open_shelf,
    run_builder,
)
from triptych.errors import DataError
from triptych.synth.ocr.packages import collections, used
from triptych.synth.ocr.pages import Collection, PdfPages

PAGES = PdfPages(())

app = typer.Typer()


@app.command("pdf")
def build_pdf(
    out: Out,
    folder: Annotated[
        list[Path] | None, typer.Option(help="Folder of PDF files of yours, in place of packages.")
    ] = None,
    license: Annotated[
        str, typer.Option(help="Licence of the files in --folder, written into every record.")
    ] = "unknown",
    sides: Annotated[
        str, typer.Option(help="Pixels of the longer side of a page, such as 448,896.")
    ] = ",".join(map(str, PAGES.sides)),
    pages: Annotated[int, typer.Option(min=1, help="Pages of a file, at most.")] = PAGES.pages,
    test_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the files that is held out.")
    ] = PAGES.test_share,
    seed: Seed = PAGES.seed,
    copyleft: Copyleft = False,
    workers: Workers = None,
    ray: Ray = False,
    cache: Cache = None,
    source: Source = None,
    replace: Replace = False,
) -> None:
    """Pages of PDF files: read the page, a line, a box, a word; where is a word; the layout."""
    if folder:
        found = tuple(_own(one, license) for one in folder)
    else:
        shelf = open_shelf(used(copyleft=copyleft), cache, source)
        found = collections(shelf, copyleft=copyleft)
    pixels = numbers("--sides", sides, 64, 8192, example="448,896")
    builder = PdfPages(found, seed, pixels, pages, test_share=test_share)
    run_builder(builder, out, workers=workers, ray=ray, replace=replace)


def _own(folder: Path, license: str) -> Collection:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    return Collection(folder.resolve().name, license, folder)
