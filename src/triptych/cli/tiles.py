"""`triptych tiles`: how a recipe cuts images into tiles, and what they cost."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from triptych.errors import TriptychError
from triptych.images.count import image_tokens
from triptych.images.decode import image_size, open_image
from triptych.images.draw import describe, draw_plan, stack, tally
from triptych.images.layout import TileLayout
from triptych.images.plan import TilePlan, plan_tiles
from triptych.model.configuration import Panels
from triptych.recipe import load_recipe


def tiles(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="The image files.")],
    recipe: Annotated[Path, typer.Option(help="The recipe whose tiling is shown.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print a list as JSON.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Draw the plans over the images.")
    ] = None,
) -> None:
    """Show how images are cut into tiles: grid, overview, padding, skipped tiles, tokens.

    No weights are read: neither a language model nor a tokenizer is needed.
    """
    model = load_recipe(recipe).model
    panels = Panels(
        towers=tuple(tower.resolve() for tower in model.towers),
        connector=model.connector,
        tiling=model.tiling,
        fusion=model.fusion,
    )
    plans = [
        plan_tiles(*image_size(path), panels.tile_size, panels.tiling, panels.zoom)
        for path in images
    ]
    if out is not None:
        _draw(images, plans, panels.layout, out)
    if as_json:
        entries = [_entry(p, plan, panels.layout) for p, plan in zip(images, plans, strict=True)]
        typer.echo(json.dumps(entries, indent=1))
        return
    for path, plan in zip(images, plans, strict=True):
        typer.echo(f"{path}: {describe(plan)}")
        inside = f", {plan.in_sequence} of them in the sequence" if plan.zooms else ""
        tokens = tally(plan, panels.layout)
        typer.echo(f"    {plan.tiles} tiles encoded{inside}; visual tokens {tokens}")
    if out is not None:
        typer.echo(f"wrote {out}")


def _entry(path: Path, plan: TilePlan, layout: TileLayout) -> dict[str, Any]:
    return {
        "path": str(path),
        "width": plan.width,
        "height": plan.height,
        "grid": list(plan.grid),
        "tiles": plan.tiles,
        "skipped": plan.skipped,
        "tokens": image_tokens(plan, layout),
    } | ({"in_sequence": plan.in_sequence, "finer": _finer(plan)} if plan.zooms else {})


def _finer(plan: TilePlan) -> list[list[int] | None]:
    """For each view, rows and columns of its finer look."""
    return [None if zoom is None else list(zoom.grid) for zoom in plan.zooms]


def _draw(images: list[Path], plans: list[TilePlan], layout: TileLayout, out: Path) -> None:
    if out.suffix.lower() != ".png":
        raise TriptychError(f"--out {out}: the picture is a PNG; give a name that ends with .png")
    pages = [
        draw_plan(open_image(path), plan, layout, path.name)
        for path, plan in zip(images, plans, strict=True)
    ]
    partial = out.with_name(f".{out.name}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        stack(pages).save(partial, format="PNG")
        partial.replace(out)
    except OSError as error:
        raise TriptychError(f"--out {out}: cannot be written: {error}") from None
