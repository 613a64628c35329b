"""What the verbs below `triptych data build` share: their options, and what they print."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeAlias

import typer
from rich.console import Console
from rich.table import Table

from triptych.cli.progress import progress_bar
from triptych.errors import DataError
from triptych.synth.assemble import QUARANTINE
from triptych.synth.files import Manifest
from triptych.synth.packages import ORIGINS, Package, Shelf, default_cache
from triptych.synth.pipeline import Builder, build
from triptych.synth.runners import choose_runner

MOST_WORKERS = 8
MEGABYTE = 1_000_000

Out: TypeAlias = Annotated[Path, typer.Option(help="Folder that receives images and records.")]
Seed: TypeAlias = Annotated[int, typer.Option(help="Seed of everything drawn at random.")]
Replace: TypeAlias = Annotated[
    bool, typer.Option("--replace", help="Replace a folder built with other options.")
]
Workers: TypeAlias = Annotated[
    int | None, typer.Option(min=1, help="Processes; as many as cores, 8 at most, by default.")
]
Ray: TypeAlias = Annotated[
    bool,
    typer.Option("--ray", help="Run on Ray Data: the cluster of RAY_ADDRESS, or this machine."),
]
Cache: TypeAlias = Annotated[
    Path | None, typer.Option(help="Folder of fetched packages; the user's cache by default.")
]
Source: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(help="PACKAGE=FOLDER: use a folder of yours in place of a package."),
]
Copyleft: TypeAlias = Annotated[
    bool,
    typer.Option("--copyleft", help="Add material whose licence must be kept (GPL, CC-BY-SA)."),
]


def open_shelf(
    packages: Sequence[Package], cache: Path | None, source: Sequence[str] | None
) -> Shelf:
    """Where packages are found, as the options say; prints what is used of it."""
    given = {}
    for text in source or ():
        name, equals, folder = text.rpartition("=")
        if not equals or not name or not folder:
            raise DataError(f"--source {text}: expected PACKAGE=FOLDER")
        given[name] = Path(folder)
    shelf = Shelf(cache or default_cache(), given)
    _print_packages(packages, shelf)
    return shelf


def _print_packages(packages: Sequence[Package], shelf: Shelf) -> None:
    """Say what is used, how large it is, and under which licence."""
    table = Table("package", "from", "MB", "licence")
    for one in packages:
        given = shelf.given.get(one.name)
        origin = ORIGINS[one.kind] if given is None else f"{given}"
        size = f"{one.size / MEGABYTE:.1f}" if given is None else ""
        table.add_row(one.source, origin, size, one.license)
    Console(soft_wrap=True).print(table)


def run_builder(
    builder: Builder, out: Path, *, workers: int | None, ray: bool, replace: bool
) -> None:
    """Build, show a bar while it lasts, and print what became of it."""
    count = workers or min(MOST_WORKERS, os.cpu_count() or 1)
    runner = choose_runner(count, ray=ray)
    with progress_bar("building") as progress:
        built = build(builder, out, runner=runner, replace_other=replace, progress=progress)
    if built.resumed:
        typer.echo(f"went on after {built.resumed} items of an interrupted build")
    print_manifest(builder.name, out, built.manifest)


def print_manifest(name: str, out: Path, manifest: Manifest) -> None:
    """Print files, licences and size of a built folder."""
    console = Console()
    console.print(f"{name} in {out}", markup=False, highlight=False, soft_wrap=True)
    table = Table("file", "records")
    for file, count in manifest.files.items():
        table.add_row(file, str(count))
    console.print(table)
    if manifest.licenses:
        licences = Table("licence", "source", "records")
        for license, sources in manifest.licenses.items():
            for source, count in sources.items():
                licences.add_row(license, source, str(count))
        console.print(licences)
    if manifest.size:
        typer.echo(f"{manifest.size / MEGABYTE:.1f} MB")
    if manifest.quarantined:
        typer.echo(f"{manifest.quarantined} things left out: {out / QUARANTINE} says why")


def numbers(option: str, text: str, least: int, most: int, *, example: str) -> tuple[int, ...]:
    """Whole numbers with commas between them.

    Raises:
        DataError: they are not that, or out of their range.
    """
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(least <= one <= most for one in found):
        raise DataError(
            f"{option} {text}: expected numbers from {least} to {most}, such as {example}"
        )
    return found
