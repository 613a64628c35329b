"""The console command: a table of verbs, and what a user sees when something goes wrong.

A verb's module is imported only when that verb is called, because most of them import torch:
``triptych --help`` answers at once.
"""

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, cast

import typer

from triptych import __version__
from triptych.errors import TriptychError


@dataclass(frozen=True)
class Verb:
    """Where a verb is written.

    Attributes:
        target: "module:name"; the name is a function, or a typer app with verbs of its own.
        help: one sentence for the overview.
        groups: further apps under this verb by name, each "module:name".
    """

    target: str
    help: str
    groups: Mapping[str, str] = field(default_factory=dict)


VERBS: dict[str, Verb] = {
    "train": Verb("triptych.cli.train:train", "Train a model from a recipe, or resume a run."),
    "eval": Verb("triptych.cli.evaluate:evaluate", "Score a model on held-out records."),
    "study": Verb("triptych.cli.study:study", "Train and compare several models and seeds."),
    "export": Verb("triptych.cli.export:export", "Write a model for other programs to load."),
    "chat": Verb("triptych.cli.chat:chat", "Talk with a model about images."),
    "replay": Verb("triptych.cli.replay:replay", "Let a model answer a record's conversation."),
    "data": Verb(
        "triptych.cli.data:app",
        "Check, look at and build training data.",
        {"build": "triptych.cli.build:app"},
    ),
    "tiles": Verb("triptych.cli.tiles:tiles", "Show how images are cut into tiles."),
    "plan": Verb("triptych.cli.plan:plan", "Plan memory, steps and time before a run."),
    "recipe": Verb("triptych.cli.recipe:app", "Check and print recipes, and their schema."),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (2 for a mistake that the user can mend)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        build_app(arguments)(args=arguments, prog_name="triptych")
    except SystemExit as end:
        return _flush(end.code if isinstance(end.code, int) else int(end.code is not None))
    except TriptychError as error:
        rank = os.environ.get("RANK", "0")
        print(f"triptych{'' if rank == '0' else f' (rank {rank})'}: {error}", file=sys.stderr)
        return _flush(2)
    except KeyboardInterrupt:
        return _flush(130)
    except BrokenPipeError:
        return _flush(1)
    return _flush(0)


def build_app(arguments: Sequence[str]) -> typer.Typer:
    """Make the app with the verb that ``arguments`` call for real, and the others as names."""
    app = typer.Typer(
        no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=_HELP
    )
    app.callback()(_options)
    called = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name, verb in VERBS.items():
        if name != called:
            app.command(name, help=verb.help)(_not_loaded)
            continue
        target = _load(verb.target)
        if not isinstance(target, typer.Typer):
            app.command(name)(target)
            continue
        group = typer.Typer(no_args_is_help=True, help=verb.help)
        group.callback()(_no_options)
        group.add_typer(target)
        for below, place in verb.groups.items():
            group.add_typer(cast(typer.Typer, _load(place)), name=below)
        app.add_typer(group, name=name)
    return app


_HELP = "Build, train, judge and talk to large multimodal models over many images and rounds."


def _load(target: str) -> Callable[..., object] | typer.Typer:
    module, name = target.split(":")
    loaded: Callable[..., object] | typer.Typer = vars(importlib.import_module(module))[name]
    return loaded


def _not_loaded() -> None:
    """Stand for a verb that is listed but not called."""


def _no_options() -> None:
    """Make a group of verbs, even where it has one verb only."""


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"triptych {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Options before the verb."""


def _flush(code: int) -> int:
    """Empty stdout; where its reader has left, keep the interpreter from complaining at exit."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code or 1
    return code


if __name__ == "__main__":
    sys.exit(main())
