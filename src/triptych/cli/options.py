"""Options that several verbs share."""

from typing import Annotated, TypeAlias

import typer

ImageCacheMb: TypeAlias = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Memory for images computed once; 0 is none; default: 1024 if the model can.",
    ),
]
