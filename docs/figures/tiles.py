"""Draw how three tilings cut the same wide picture.

    python docs/figures/tiles.py        writes docs/figures/tiles.png

The drawing is the one of ``triptych tiles --out``, and follows the plans themselves.
"""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from triptych.images import (
    AnyresTiling,
    FixedTiling,
    GridTiling,
    TileLayout,
    TilingSpec,
    plan_tiles,
)
from triptych.images.draw import draw_plan, stack

TILINGS: dict[str, tuple[TilingSpec, TileLayout]] = {
    "kind: fixed": (FixedTiling(fit="pad"), TileLayout(16, 16, 1)),
    "kind: grid": (GridTiling(tile_tags=True), TileLayout(16, 16, 1)),
    "kind: anyres": (
        AnyresTiling(unpad=True, order="rows", row_separator=True, skip="none"),
        TileLayout(16, 16),
    ),
}


def make_picture() -> Image.Image:
    """A wide page with print of several sizes."""
    page = Image.new("RGB", (1040, 480), "#f4efe4")
    pen = ImageDraw.Draw(page)
    pen.ellipse((640, 70, 980, 410), fill="#5b8fb0")
    pen.polygon([(700, 330), (810, 120), (920, 330)], fill="#e0a458")
    for number, size in enumerate((80, 48, 30, 20, 13)):
        text = ("K7M2QX", "4VTC9H", "RW3N8P", "ZD6J5F", "8YB2SG")[number]
        pen.text((60, 40 + 80 * number), text, "#22313f", ImageFont.load_default(size))
    return page


def main() -> None:
    """Write the figure."""
    picture = make_picture()
    pages = [
        draw_plan(picture, plan_tiles(*picture.size, 224, spec), layout, name)
        for name, (spec, layout) in TILINGS.items()
    ]
    target = Path(__file__).with_suffix(".png")
    whole = stack(pages)
    whole.quantize(128).save(target, optimize=True)
    print(f"wrote {target.name}, {whole.width}x{whole.height}")


if __name__ == "__main__":
    main()
