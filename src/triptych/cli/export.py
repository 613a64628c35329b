"""`triptych export`: a trained model in a form that other programs load."""

from pathlib import Path
from typing import Annotated

import typer
from transformers.utils.logging import disable_progress_bar

from triptych.export import ExportSpec, Report, export_model
from triptych.spec import validate


def export(
    model: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder or a model folder.")],
    out: Annotated[Path, typer.Argument(help="The folder to write; it must not exist yet.")],
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="llava (LLaVA or LLaVA-NeXT of transformers), triptych (remote code), auto (one "
            "of the two), or parts (what was trained, for this package).",
        ),
    ] = "auto",
    checkpoint: Annotated[
        str | None,
        typer.Option(help="last, best, or a number of steps; default: the trained model."),
    ] = None,
    adapter: Annotated[
        bool, typer.Option("--adapter", help="Leave LoRA matrices apart, in OUT/adapter.")
    ] = False,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; default: the model's.")
    ] = None,
    shard: Annotated[
        str, typer.Option(help="Largest size of one file of weights, such as 500MB.")
    ] = "5GB",
) -> None:
    """Write a model with its LoRA matrices merged, load it again, and compare its answers."""
    disable_progress_bar()
    given = {
        "format": form,
        "checkpoint": checkpoint,
        "adapter": adapter,
        "dtype": dtype,
        "shard": shard,
    }
    report = export_model(model, out, validate(ExportSpec, given, "triptych export"))
    for line in describe(report, out):
        typer.echo(line)


def describe(report: Report, out: Path) -> list[str]:
    """What was written, and how well it was checked."""
    check = report.check
    lines = [f"{out}: {_FORMS[report.form]}, {report.dtype}, from {report.source}"]
    if report.form == "triptych" and report.obstacles:
        lines.append(f"  not a LLaVA of transformers: {'; '.join(report.obstacles)}")
    if report.adapted:
        lines.append(f"  adapter/: LoRA matrices of {report.adapted} layers, for peft")
    lines.append(
        f"  checked: loaded again, {check.prompts} prompts: logits differ by at most "
        f"{check.difference:.2g} (they reach {check.scale:.3g}), {check.tokens} greedy tokens equal"
    )
    return lines


_FORMS = {
    "llava": "LLaVA of transformers",
    "llava_next": "LLaVA-NeXT of transformers",
    "triptych": "remote code, which needs triptych installed",
    "parts": "what the run trained, for triptych",
}
