"""``triptych study``: train and judge all arms of a comparison, with several seeds."""

from pathlib import Path
from typing import Annotated

import typer
from transformers.utils.logging import disable_progress_bar

from triptych.errors import RecipeError
from triptych.evaluation.study import load_study, plan_runs, run_study, write_study
from triptych.evaluation.study.runner import read_results


def study(
    path: Annotated[
        Path, typer.Argument(metavar="STUDY", help="A YAML file, or a folder with a study.yaml.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, such as steps=0.5."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="ARM", help="Run only this arm; may be given several times."),
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Only write the tables of what is finished.")
    ] = False,
) -> None:
    """Train and judge every arm with every seed; write a table and a picture.

    What is finished is skipped and what was interrupted goes on: run it again after a break.
    """
    disable_progress_bar()
    spec = load_study(path, overrides or ())
    unknown = [name for name in only or () if name not in spec.arms]
    if unknown:
        raise RecipeError(f"--only {unknown[0]}: the study has the arms {', '.join(spec.arms)}")
    runs = plan_runs(spec)
    chosen = [] if report else [run for run in runs if not only or run.arm in only]
    _, failures = run_study(spec, chosen, lambda line: typer.echo(line))
    write_study(spec, read_results(spec, runs), failures)
    typer.echo((spec.folder / "study.md").read_text(encoding="utf-8"))
    typer.echo(f"{spec.folder}: study.md, study.json, study.png")
    if failures:
        raise typer.Exit(1)
