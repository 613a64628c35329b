"""``triptych eval``: score a model on held-out records."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from transformers.utils.logging import disable_progress_bar

from triptych.cli.options import ImageCacheMb
from triptych.data.readers import open_reader
from triptych.data.schema import Record
from triptych.evaluation import EvalSpec, evaluate_records, table, write_report
from triptych.evaluation.refusals import describe_refusals
from triptych.evaluation.runner import Progress as Report
from triptych.inference import load_engine


def evaluate(
    model: Annotated[Path, typer.Argument(help="A model folder or a run folder.")],
    data: Annotated[Path, typer.Option(help="A file of records with reference answers.")],
    reader: Annotated[str, typer.Option(help="Format of the file: jsonl or llava.")] = "jsonl",
    images: Annotated[
        Path | None, typer.Option(help="Folder of relative image paths; default: the file's.")
    ] = None,
    blind: Annotated[
        bool, typer.Option(help="Judge also with the images swapped among records.")
    ] = True,
    history: Annotated[
        str, typer.Option(help="Earlier answers in a prompt: 'reference' or the model's 'own'.")
    ] = "reference",
    fast: Annotated[
        bool, typer.Option("--fast", help="Only right or wrong by token, in one pass.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N records.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the swap of images.")] = 0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 32,
    batch_tokens: Annotated[int, typer.Option(min=1, help="Padded tokens of a batch.")] = 16384,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the report; default: MODEL/evaluation/NAME_OF_DATA."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    image_cache_mb: ImageCacheMb = None,
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda:0.")] = None,
) -> None:
    """Score a model: greedy answers, exact match, by category, beside the blind baseline."""
    if history not in ("reference", "own"):
        raise typer.BadParameter(f"--history is '{history}'; 'reference' or 'own' is expected")
    spec = EvalSpec.model_validate(
        {
            "history": history,
            "blind": blind,
            "seed": seed,
            "limit": limit,
            "max_new_tokens": max_new_tokens,
            "fast": fast,
        }
    )
    records = _read(data, reader, images, limit)
    disable_progress_bar()
    engine = load_engine(
        model, device=device, batch_tokens=batch_tokens, image_cache_mb=image_cache_mb
    )
    with _progress() as report:
        evaluation = evaluate_records(engine, records, spec, report)
    folder = out or model / "evaluation" / data.stem
    summary = write_report(evaluation, folder, {"model": str(model), "data": str(data)})
    if as_json:
        print(json.dumps(summary, ensure_ascii=False))
        return
    console = Console()
    console.print(table(summary))
    if summary["empty_share"] is not None:
        console.print(
            f"empty answers {100 * summary['empty_share']:.1f} %, "
            f"cut after {max_new_tokens} tokens {100 * summary['cut_share']:.1f} %"
        )
    for line in describe_refusals(summary["refusals"] or {}):
        console.print(line)
    console.print(f"{summary['seconds']:.1f} s; every answer: {folder / 'answers.jsonl'}")


def _read(data: Path, reader: str, images: Path | None, limit: int | None) -> list[Record]:
    source = open_reader(data, reader, images)
    return [source[index] for index in range(min(len(source), limit or len(source)))]


@contextmanager
def _progress() -> Iterator[Report]:
    """A bar for each pass, on stderr, so that stdout holds results alone."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    timing = (TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Progress(*columns, *timing, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def report(name: str, count: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total, rate="")
            task = tasks[name]
            bar.advance(task, count)
            speed = bar.tasks[bar.task_ids.index(task)].speed
            bar.update(task, rate=f"{speed:,.0f}/s" if speed else "")

        yield report
