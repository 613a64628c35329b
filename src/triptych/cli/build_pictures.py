"""`triptych data build marks`, `charts` and `dialogues`."""

from pathlib import Path
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
from triptych.errors import DataError
from triptych.synth.charts.builder import Charts
from triptych.synth.charts.tables import VEGA
from triptych.synth.dialogue.builder import Dialogues
from triptych.synth.marks.objects import Asking, MarkedObjects

CHARTS = Charts(Path())
DIALOGUES = Dialogues(())
ASKING = Asking()

app = typer.Typer()


@app.command("marks")
def build_marks(
    file: Annotated[
        Path,
        typer.Argument(help="Objects with boxes or polygons: a COCO file, or entries of ours."),
    ],
    out: Out,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder that image paths start from; the file's own by default."),
    ] = None,
    license: Annotated[
        str, typer.Option(help="Licence of the images, written into every record.")
    ] = "unknown",
    most: Annotated[int, typer.Option(min=2, max=99, help="Marks in a picture.")] = ASKING.most,
    questions: Annotated[
        int, typer.Option(min=1, help="Questions about a picture, at most.")
    ] = ASKING.questions,
    as_text: Annotated[
        float, typer.Option(min=0, max=1, help="Share of pictures with marks as text, not drawn.")
    ] = ASKING.as_text,
    test_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the images that is held out.")
    ] = 0.1,
    seed: Seed = 0,
    workers: Workers = None,
    ray: Ray = False,
    replace: Replace = False,
) -> None:
    """Set-of-Mark: numbers on the things in annotated images, and questions about them."""
    if not file.is_file():
        raise DataError(f"{file}: no such file")
    asking = Asking(most, questions, as_text)
    builder = MarkedObjects(file, images, file.stem, license, seed, asking, test_share)
    run_builder(builder, out, workers=workers, ray=ray, replace=replace)


@app.command("charts")
def build_charts(
    out: Out,
    train: Annotated[int, typer.Option(min=1, help="Training charts.")] = CHARTS.train,
    test: Annotated[int, typer.Option(min=0, help="Held-out charts.")] = CHARTS.test,
    questions: Annotated[
        int, typer.Option(min=1, help="Questions about a chart, at most.")
    ] = CHARTS.questions,
    seed: Seed = CHARTS.seed,
    workers: Workers = None,
    ray: Ray = False,
    cache: Cache = None,
    source: Source = None,
    replace: Replace = False,
) -> None:
    """Bar and line charts of real tables; whole tables are held out."""
    shelf = open_shelf([VEGA], cache, source)
    builder = Charts(shelf.open(VEGA), seed, train, test, questions)
    run_builder(builder, out, workers=workers, ray=ray, replace=replace)


@app.command("dialogues")
def build_dialogues(
    out: Out,
    place: Annotated[
        list[Path],
        typer.Option("--from", help="Built folder, or file train*.jsonl or test*.jsonl."),
    ],
    train: Annotated[int, typer.Option(min=0, help="Training dialogues.")] = DIALOGUES.train,
    test: Annotated[int, typer.Option(min=0, help="Held-out dialogues.")] = DIALOGUES.test,
    images: Annotated[
        tuple[int, int], typer.Option(min=2, max=16, help="Fewest and most images.")
    ] = DIALOGUES.images,
    rounds: Annotated[
        tuple[int, int], typer.Option(min=1, max=50, help="Fewest and most rounds.")
    ] = DIALOGUES.rounds,
    which: Annotated[
        float, typer.Option(min=0, max=1, help="Share that ends with: of which image is it true?")
    ] = DIALOGUES.which,
    seed: Seed = DIALOGUES.seed,
    workers: Workers = None,
    ray: Ray = False,
    replace: Replace = False,
) -> None:
    """Dialogues over several images, made of questions about single ones in data built before."""
    if images[0] > images[1] or rounds[0] > rounds[1]:
        raise DataError("--images and --rounds take the fewest first, then the most")
    builder = Dialogues(tuple(place), seed, train, test, images, rounds, which)
    run_builder(builder, out, workers=workers, ray=ray, replace=replace)
