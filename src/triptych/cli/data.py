"""`triptych data`: check and look at training data."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from triptych.cli.progress import progress_bar
from triptych.data.convert import convert
from triptych.data.lint import LintReport, lint
from triptych.data.opposed import Listed, oppose
from triptych.data.preview import render, view, visible
from triptych.data.preview_html import page
from triptych.data.readers import READERS, open_reader
from triptych.data.spec import located
from triptych.data.stats import draw, measure_records
from triptych.errors import DataError

if TYPE_CHECKING:
    from triptych.model.processing import TriptychProcessor

app = typer.Typer(no_args_is_help=True)

Place = Annotated[str, typer.Argument(metavar="FILE", help="File, folder, shards or address.")]
Answers = Annotated[
    Path | None, typer.Option(help="Second file of formats that have two (VQA annotations).")
]
File = Annotated[Path, typer.Argument(metavar="FILE", help="The file of records.")]
ReaderName = Annotated[str, typer.Option(help=f"Format of the file: {', '.join(READERS)}.")]
Images = Annotated[
    Path | None,
    typer.Option(help="Folder that relative image paths start from; the file's own by default."),
]
Model = Annotated[
    Path | None,
    typer.Option(help="Model folder, run folder or recipe: its tokens are counted and shown."),
]


@app.command("lint")
def lint_command(
    file: File,
    reader: ReaderName = "jsonl",
    images: Images = None,
    model: Model = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(help="Longest record allowed; data.max_tokens of a recipe by default.", min=1),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    show: Annotated[int, typer.Option(help="Problems printed; 0 prints all.", min=0)] = 100,
) -> None:
    """Check every record: format, roles, images, supervision, and tokens where a model is given.

    The exit code is 2 when there is an error.
    """
    processor, context = (None, None) if model is None else _open_processor(model)
    if max_tokens is not None and processor is None:
        raise DataError("--max-tokens needs --model: without a model no token can be counted")
    with progress_bar("checking", hidden=as_json) as progress:
        report = lint(
            file,
            reader,
            images,
            processor=processor,
            max_tokens=max_tokens or context,
            progress=progress,
        )
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=1, ensure_ascii=False))
    else:
        _print_report(report, show)
    if report.errors:
        raise typer.Exit(2)


@app.command()
def preview(
    file: File,
    reader: ReaderName = "jsonl",
    images: Images = None,
    index: Annotated[int, typer.Option(help="First record shown, from 0.", min=0)] = 0,
    count: Annotated[int, typer.Option(help="Records shown.", min=1)] = 1,
    html: Annotated[
        Path | None, typer.Option(help="Write a page here instead of printing.")
    ] = None,
    model: Model = None,
) -> None:
    """Show records as conversations: what is an image, what is supervised."""
    records = open_reader(file, reader, images)
    if index >= len(records):
        raise DataError(f"{file}: there is no record {index}; the last one is {len(records) - 1}")
    processor = None if model is None else _open_processor(model)[0]
    chosen = range(index, min(index + count, len(records)))
    views = [view(records[number], processor) for number in chosen]
    if html is None:
        console = Console()
        for shown in views:
            console.print(render(shown))
        return
    html.write_text(page(views, f"{file.name}, records {chosen[0]} to {chosen[-1]}"), "utf-8")
    typer.echo(f"wrote {html}")


@app.command("stats")
def stats_command(
    file: Place,
    reader: ReaderName = "jsonl",
    images: Images = None,
    answers: Answers = None,
    model: Model = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Draw how many rounds, images, tokens and tiles records have, and count duplicates."""
    records = open_reader(located(file), reader, images, answers)
    processor = None if model is None else _open_processor(model)[0]
    with progress_bar("checking", hidden=as_json) as progress:
        stats = measure_records(records, processor, progress)
    if as_json:
        typer.echo(json.dumps(asdict(stats), indent=1))
        return
    console = Console(soft_wrap=True, highlight=False)
    console.print(
        f"{file}: {stats.records} records ({stats.bad} bad, {stats.duplicates} seen before), "
        f"{stats.images} images ({stats.distinct_images} distinct, {stats.unreadable_images} "
        "unreadable)",
        markup=False,
    )
    for histogram in stats.histograms:
        console.print(Text("\n".join(draw(histogram))))


@app.command("convert")
def convert_command(
    file: Place,
    out: Annotated[Path, typer.Argument(help="*.jsonl, *.parquet, or *.tar for shards.")],
    reader: ReaderName = "jsonl",
    images: Images = None,
    answers: Answers = None,
    shard: Annotated[int, typer.Option(help="Records of a shard.", min=1)] = 1000,
) -> None:
    """Write records as JSON lines, Parquet, or WebDataset shards."""
    records = open_reader(located(file), reader, images, answers)
    with progress_bar("writing") as progress:
        done = convert(records, out, shard=shard, progress=progress)
    names = f"{done.files[0]}" + (f" to {done.files[-1].name}" if len(done.files) > 1 else "")
    typer.echo(f"wrote {done.records} records and {done.images} images to {names}")
    if done.without_metadata:
        typer.echo(
            f"note: Parquet has no place for the metadata of {done.without_metadata} records"
        )


@app.command("pairs")
def pairs_command(
    file: Place,
    out: Annotated[Path, typer.Argument(help="*.jsonl, *.parquet, or *.tar for shards.")],
    reader: ReaderName = "jsonl",
    images: Images = None,
    answers: Answers = None,
    seed: Annotated[int, typer.Option(help="Seed of the choice of wrong answers.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N records.")] = None,
) -> None:
    """Preferences: each record's last answer over another one of the same category."""
    pairs = oppose(open_reader(located(file), reader, images, answers), seed=seed, limit=limit)
    done = convert(pairs, out)
    typer.echo(f"wrote {done.records} preferences to {out}")


@app.command("noised")
def noised_command(
    model: Annotated[Path, typer.Argument(help="A model folder or a run folder.")],
    file: Place,
    out: Annotated[Path, typer.Argument(help="*.jsonl, *.parquet, or *.tar for shards.")],
    reader: ReaderName = "jsonl",
    images: Images = None,
    step: Annotated[
        int, typer.Option(min=1, max=1000, help="Diffusion steps of noise on the images.")
    ] = 500,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N records.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 64,
) -> None:
    """Preferences: the right answers over what the model says about noised images."""
    # What loads a model takes seconds to import.
    from triptych.inference import load_engine
    from triptych.training.objectives.noised import reject_noised

    source = open_reader(located(file), reader, images)
    records = [source[index] for index in range(min(len(source), limit or len(source)))]
    engine = load_engine(model)
    with progress_bar("answering") as progress:
        found = reject_noised(
            engine,
            records,
            step=step,
            seed=seed,
            max_new_tokens=max_new_tokens,
            progress=progress,
        )
        pairs = Listed(list(found))
    if not pairs.records:
        raise DataError(f"{file}: no preference is left; raise --step for more noise")
    done = convert(pairs, out)
    typer.echo(
        f"wrote {done.records} preferences to {out}; to the other {len(records) - done.records} "
        "records the model gave the right answer, or none, or they have no image"
    )


def _open_processor(path: Path) -> "tuple[TriptychProcessor, int | None]":
    # A model is optional here, and importing what loads it takes seconds.
    from triptych.cli.processor import open_processor

    return open_processor(path)


def _print_report(report: LintReport, show: int) -> None:
    console = Console(soft_wrap=True, highlight=False)
    shown = report.problems[: show or None]
    for problem in shown:
        style = "red" if problem.level == "error" else "yellow"
        line = Text.assemble(
            f"{problem.where}: ", (problem.level, style), f": {visible(problem.message)}"
        )
        console.print(line)
        console.print(Text(f"    {problem.hint}", style="dim"))
    if len(shown) < len(report.problems):
        console.print(f"... {len(report.problems) - len(shown)} more (--show 0 prints all)")
    tokens = "" if report.tokens is None else f", {report.tokens} tokens (longest {report.longest})"
    console.print(
        f"{report.path}: {report.records} records, {report.images} images, "
        f"{report.text_only} without images, {report.rounds} rounds{tokens}"
    )
    console.print(f"{report.errors} errors, {report.warnings} warnings")
