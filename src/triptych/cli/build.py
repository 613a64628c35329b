"""`triptych data build`: make training and evaluation data from packages of real material."""

from typing import Annotated

import typer

from triptych.cli import (
    build_drawings,
    build_manuals,
    build_maps,
    build_ocr,
    build_pictures,
    build_words,
)
from triptych.cli.build_options import (
    Out,
    Ray,
    Replace,
    Workers,
    numbers,
    print_manifest,
    run_builder,
)
from triptych.errors import DataError
from triptych.synth import safety
from triptych.synth.dialogue import easy_vqa
from triptych.synth.dialogue.rounds import Style
from triptych.synth.files import Manifest
from triptych.synth.ocr import codes

DEFAULT = easy_vqa.Plan()
CODES = codes.Plan()
SAFETY = safety.Plan()

own = typer.Typer()


@own.command("easy-vqa")
def build_easy_vqa(
    out: Out,
    seed: Annotated[int, typer.Option(help="Seed of the training files.")] = 0,
    passes: Annotated[
        int, typer.Option(min=1, help="Conversations of each image in each training file.")
    ] = DEFAULT.passes,
    images: Annotated[
        str, typer.Option(help="Weights of the number of images: number:weight,...")
    ] = "1:1,2:1,3:1,4:1",
    rounds_per_image: Annotated[
        int, typer.Option(min=1, help="Most questions about one image of a conversation.")
    ] = DEFAULT.style.rounds_per_image,
    talk: Annotated[
        int, typer.Option(min=1, help="The same, in the file of long conversations.")
    ] = DEFAULT.talk,
    rounds: Annotated[int, typer.Option(min=1, help="Most rounds.")] = DEFAULT.style.rounds,
    late: Annotated[
        float, typer.Option(min=0, max=1, help="Share of conversations with late images.")
    ] = DEFAULT.style.late,
    name_single: Annotated[
        float, typer.Option(min=0, max=1, help="How often a lone image is named.")
    ] = DEFAULT.style.name_single,
    balance: Annotated[
        float, typer.Option(min=0, help="Frequent yes/no answers kept per rare one; 0 keeps all.")
    ] = 1.0,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only so many images of each split.")
    ] = None,
    replace: Replace = False,
) -> None:
    """Conversations over one to four images of the easy-VQA package, and held-out questions."""
    style = Style(
        images=_weights(images),
        rounds_per_image=rounds_per_image,
        rounds=rounds,
        late=late,
        name_single=name_single,
        balance=balance or None,
    )
    plan = easy_vqa.Plan(seed, passes, limit, style, talk)
    files = easy_vqa.build(out, plan, replace_other=replace)
    print_manifest("easy-vqa", out, Manifest({}, files))


@own.command("codes")
def build_codes(
    out: Out,
    seed: Annotated[int, typer.Option(help="Seed of the training pages.")] = CODES.seed,
    train: Annotated[int, typer.Option(min=1, help="Training pages.")] = CODES.train,
    test: Annotated[int, typer.Option(min=1, help="Held-out pages.")] = CODES.test,
    page: Annotated[
        int, typer.Option(min=16, max=4000, help="Longer side of a page in pixels.")
    ] = CODES.page,
    heights: Annotated[
        str, typer.Option(help="Heights of a capital in pixels, such as 6,9,14.")
    ] = ",".join(map(str, CODES.heights)),
    length: Annotated[int, typer.Option(min=1, help="Characters of a code.")] = CODES.length,
    alphabet: Annotated[str, typer.Option(help="What codes are made of.")] = CODES.alphabet,
    workers: Workers = None,
    ray: Ray = False,
    replace: Replace = False,
) -> None:
    """Pages with one random code each, printed at several heights, and held-out pages."""
    pixels = numbers("--heights", heights, 4, page, example="6,9,14")
    plan = codes.Plan(seed, train, test, page, pixels, length, alphabet)
    run_builder(codes.Codes(plan), out, workers=workers, ray=ray, replace=replace)


@own.command("safety")
def build_safety(
    out: Out,
    seed: Annotated[int, typer.Option(help="Seed of the training cards.")] = SAFETY.seed,
    train: Annotated[int, typer.Option(min=1, help="Training cards.")] = SAFETY.train,
    test: Annotated[int, typer.Option(min=1, help="Held-out cards.")] = SAFETY.test,
    side: Annotated[int, typer.Option(min=16, help="Side of a card in pixels.")] = SAFETY.side,
    replace: Replace = False,
) -> None:
    """Cards that may be talked about and cards that may not, in the layout of VLGuard."""
    files = safety.build(out, safety.Plan(seed, train, test, side), replace_other=replace)
    print_manifest("safety", out, Manifest({}, files))


def _weights(text: str) -> dict[int, float]:
    try:
        pairs = [part.split(":") for part in text.split(",")]
        return {int(number): float(weight) for number, weight in pairs}
    except ValueError:
        raise DataError(f"--images {text}: expected number:weight pairs, such as 1:2,2:1") from None


def _group() -> None:
    """Build data from packages of real material, or from files of yours."""


def _assemble(*parts: typer.Typer) -> typer.Typer:
    whole = typer.Typer(no_args_is_help=True)
    whole.callback()(_group)
    for part in parts:
        whole.add_typer(part)
    return whole


app = _assemble(
    own,
    build_ocr.app,
    build_pictures.app,
    build_drawings.app,
    build_maps.app,
    build_manuals.app,
    build_words.app,
)
