"""Pictures of plans: what the model sees of an image, and what each part of it costs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from triptych.images.arrange import Learned, arrange, shown
from triptych.images.layout import TileLayout
from triptych.images.plan import TilePlan, View

INK, PAPER, EDGE, SKIPPED, KEPT = "#202020", "#ffffff", "#d62728", "#ffffff", "#2ca02c"
SIDE, GAP, LINE = 512, 20, 20
"""Pixels: the longer side of a drawn grid, the space around things, and a line of text."""


@dataclass(frozen=True)
class Tally:
    """What the visual tokens of an image are.

    Attributes:
        tiles: tokens of each encoded tile, the overview first; one number for the whole image
            where it is sampled whole.
        learned: how often each learnable token occurs.
    """

    tiles: tuple[int, ...]
    learned: dict[Learned, int]

    @property
    def tokens(self) -> int:
        """All visual tokens of the image."""
        return sum(self.tiles) + sum(self.learned.values())

    def __str__(self) -> str:
        own = Counter(self.tiles)
        parts = [f"{count} x {tokens}" for tokens, count in own.items()]
        names = {
            Learned.START: "start",
            Learned.END: "end",
            Learned.SKIP: "skip",
            Learned.SEPARATOR: "separator",
        }
        parts += [f"{self.learned[t]} {name}" for t, name in names.items() if t in self.learned]
        return f"{self.tokens} = {' + '.join(parts)}"


def tally(plan: TilePlan, layout: TileLayout) -> Tally:
    """Count the visual tokens of an image by where they come from."""
    own: Counter[int] = Counter()
    learned: Counter[Learned] = Counter()
    for run in arrange(plan, layout):
        if run.tile is None:
            learned[Learned(run.start)] += 1
        else:
            own[run.tile] += run.stop - run.start
    tiles = 1 if layout.whole_image else plan.in_sequence
    return Tally(tuple(own[tile] for tile in range(tiles)), dict(learned))


def describe(plan: TilePlan) -> str:
    """One line about the tiles of a plan."""
    rows, columns = plan.grid
    text = f"{plan.width}x{plan.height} pixels, {rows} x {columns} tiles of {plan.size}"
    text += "" if plan.overview is None else " and an overview"
    text += f", {plan.skipped} skipped" if plan.skipped else ""
    for zoom in plan.zooms:
        if zoom is not None:
            text += f", looked at again in {zoom.grid[0]} x {zoom.grid[1]} tiles"
            text += f" ({len(zoom.skipped)} skipped)" if zoom.skipped else ""
    return text


def draw_plan(image: Image.Image, plan: TilePlan, layout: TileLayout, name: str) -> Image.Image:
    """Draw the plan of an RGB image: the overview, beside it the grid, then the finer looks.

    The image is drawn as blurred as the towers see it. Tiles are framed in red, with the number of
    their tokens; skipped ones are crossed out. Where padding is dropped, a green frame holds the
    tokens that are kept.
    """
    counts = tally(plan, layout)
    views = [_draw_view(image, plan, view, layout, counts) for view in plan.all_views]
    width = sum(view.width + GAP for view in views) + GAP
    height = max(view.height for view in views) + 2 * GAP + 2 * LINE
    text = (f"{name}: {describe(plan)}", f"visual tokens: {counts}")
    page = Image.new("RGB", (max(width, *(_width(line) + 2 * GAP for line in text)), height), PAPER)
    pen = ImageDraw.Draw(page)
    for number, line in enumerate(text):
        pen.text((GAP, GAP // 2 + number * LINE), line, INK, _font())
    left = GAP
    for view in views:
        page.paste(view, (left, GAP + 2 * LINE))
        left += view.width + GAP
    return page


def stack(pages: Sequence[Image.Image]) -> Image.Image:
    """Put pages below each other."""
    whole = Image.new("RGB", (max(p.width for p in pages), sum(p.height for p in pages)), PAPER)
    top = 0
    for page in pages:
        whole.paste(page, (0, top))
        top += page.height
    return whole


def _draw_view(
    image: Image.Image, plan: TilePlan, view: View, layout: TileLayout, counts: Tally
) -> Image.Image:
    rows, columns = view.grid
    is_grid, finer = view is plan.views[-1], all(view is not one for one in plan.views)
    side = SIDE // max(rows, columns) if is_grid or finer else SIDE // 3

    def drawn(pixels: int) -> int:
        return round(pixels * side / plan.size)

    canvas = Image.new("RGB", (columns * side, rows * side), plan.spec.fill)
    part = image if view.source == (0, 0, *image.size) else image.crop(view.source)
    # Through the resolution that the towers get, so that the drawing shows no more than they see.
    seen = part.resize(view.scaled, Image.Resampling.BICUBIC)
    scaled = (max(1, drawn(view.scaled[0])), max(1, drawn(view.scaled[1])))
    canvas.paste(seen.resize(scaled, Image.Resampling.BICUBIC), (drawn(view.left), drawn(view.top)))
    pen = ImageDraw.Draw(canvas)
    number = 1 if is_grid and plan.overview is not None else 0
    for cell in range(rows * columns):
        left, top = cell % columns * side, cell // columns * side
        box = (left, top, left + side - 1, top + side - 1)
        if cell in view.skipped:
            pen.line(box, SKIPPED, 2)
            pen.line((box[0], box[3], box[2], box[1]), SKIPPED, 2)
            _label(pen, left, top, "skipped")
        else:
            own = counts.tiles[number] if number < len(counts.tiles) else None
            plain = "seen" if own is None else f"{own} tokens"
            _label(pen, left, top, "added" if finer else plain)
            number += 1
        pen.rectangle(box, outline=EDGE, width=2)
    if plan.spec.unpad and layout.rows and layout.columns and not finer:
        kept = shown(plan, view, layout, plan.spec.edge)
        across, down = side / layout.columns, side / layout.rows
        frame = (kept.left * across, kept.top * down, kept.right * across, kept.bottom * down)
        pen.rectangle(frame, outline=KEPT, width=3)
    return canvas


def _label(pen: ImageDraw.ImageDraw, left: int, top: int, text: str) -> None:
    place = (left + 6, top + 6)
    pen.rectangle(pen.textbbox(place, text, _font()), fill=PAPER)
    pen.text(place, text, INK, _font())


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(14)


def _width(text: str) -> int:
    return round(_font().getlength(text))
