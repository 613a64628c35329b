"""Specs of the ways to cut an image into tiles, and to write its tiles as tokens."""

from collections.abc import Sequence
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, PositiveInt, model_validator

from triptych.spec import Spec

Channel = Annotated[int, Field(ge=0, le=255)]
Anchor: TypeAlias = Literal["centre", "corner"]
Fit: TypeAlias = Literal["pad", "stretch"]
Overview: TypeAlias = Literal["squash", "pad", "none"]
Skip: TypeAlias = Literal["none", "bare", "tagged"]
Grid: TypeAlias = tuple[int, int]

XGEN_GRIDS: tuple[Grid, ...] = ((2, 1), (1, 2), (2, 2), (1, 3), (3, 1))
"""Rows and columns of the five grids of xGen-MM (Xue et al., 2024), in its order."""


class TilingBase(Spec):
    """What every tiling can be told about its padding and its tokens."""

    fill: tuple[Channel, Channel, Channel] = (127, 127, 127)
    """Colour (red, green, blue) of the padding."""

    edge: Literal["half", "any"] = "half"
    """Which tokens at the edge of the image count as image: those covered by at least half, as in
    LLaVA-NeXT and xGen-MM, or those with any pixel of it."""

    unpad: bool = False
    """Drop the visual tokens that show padding; connectors that sample mask them instead."""

    order: Literal["tiles", "rows"] = "tiles"
    """Write the tokens tile by tile, or row by row across all tiles of the grid (LLaVA-NeXT)."""

    row_separator: bool = False
    """Put a learnable token behind each row: of tiles, or with order 'rows' of tokens."""

    tile_tags: bool = False
    """Wrap each tile, the overview too, in a learnable start and a learnable end token."""

    @property
    def skips(self) -> Skip:
        """What stands for a tile that is all padding; 'none' where that cannot happen."""
        return "none"

    @model_validator(mode="after")
    def _rows_have_no_tiles(self) -> Self:
        if self.order == "rows" and self.tile_tags:
            raise ValueError("order 'rows' mixes the tiles, so tile_tags have no place; drop one")
        return self


class FixedTiling(TilingBase):
    """One tile for every image, whatever its shape."""

    kind: Literal["fixed"] = "fixed"
    """Names this tiling."""

    fit: Literal["stretch", "pad", "crop"] = "stretch"
    """Stretch the image to the square, pad its short side, or crop its long side at the centre."""


class GriddedTiling(TilingBase):
    """What the tilings with a grid of tiles have in common."""

    fit: Fit = "pad"
    """Keep the aspect ratio and pad the grid, or stretch the image over the whole grid."""

    anchor: Anchor = "centre"
    """Where the image stands in its padding: in the middle, or at the top left corner."""

    overview: Overview = "squash"
    """The whole image as a first tile: squashed to the square, padded to it, or none."""

    skip: Skip = "bare"
    """A tile that is all padding is not encoded and costs one learnable token ('bare'), the same
    between the tile tags ('tagged'), or is treated like any other ('none')."""

    @property
    def skips(self) -> Skip:
        """What stands for a tile that is all padding; 'none' where that cannot happen."""
        return self.skip if self.fit == "pad" else "none"

    @property
    def leaves_out(self) -> bool:
        """Whether tiles that are all padding are kept from the towers."""
        return self.fit == "pad" and (self.skip != "none" or self.unpad)

    @model_validator(mode="after")
    def _skip_has_a_place(self) -> Self:
        if self.skip == "tagged" and not self.tile_tags:
            raise ValueError("skip 'tagged' needs tile_tags: true; or set skip: bare")
        if self.order == "rows" and self.skips != "none":
            raise ValueError(
                "order 'rows' mixes the tiles, so a skip token has no place; set skip: none (with "
                "unpad: true a tile that is all padding then costs nothing)"
            )
        return self


class AnyresTiling(GriddedTiling):
    """The grid that shows most of the image, out of several (LLaVA-NeXT, xGen-MM)."""

    kind: Literal["anyres"] = "anyres"
    """Names this tiling."""

    grids: Annotated[tuple[tuple[PositiveInt, PositiveInt], ...], Field(min_length=1)] | None = None
    """Candidate grids as [rows, columns]; the five of xGen-MM when neither this nor max_tiles is
    given."""

    max_tiles: int | None = Field(None, ge=2, le=256)
    """Consider all grids of 2 to so many tiles, in place of a list."""

    one_tile: bool = False
    """Also consider the 1 x 1 grid, so that a small image costs one tile."""

    one_tile_overview: bool = False
    """Keep the overview beside the only tile of a 1 x 1 grid."""

    @property
    def candidates(self) -> Sequence[Grid]:
        """The grids to choose from, in the order that decides between equals."""
        if self.max_tiles is None:
            found = list(XGEN_GRIDS if self.grids is None else self.grids)
        else:
            sides = range(1, self.max_tiles + 1)
            found = [(r, c) for r in sides for c in sides if 2 <= r * c <= self.max_tiles]
        return [(1, 1), *found] if self.one_tile else found

    @model_validator(mode="after")
    def _one_list(self) -> Self:
        if self.grids is not None and self.max_tiles is not None:
            raise ValueError("give grids or max_tiles, not both")
        return self


class GridTiling(GriddedTiling):
    """The same square grid for every image (SPHINX-X): ``side`` x ``side`` tiles."""

    kind: Literal["grid"] = "grid"
    """Names this tiling."""

    side: int = Field(2, ge=1, le=16)
    """Tiles on each side of the grid: 2 looks at twice the tower's resolution, 3 at three times."""

    anchor: Anchor = "corner"
    """Where the image stands in its padding: at the top left corner, which leaves whole tiles of
    padding to be skipped, or in the middle."""

    overview: Overview = "pad"
    """The whole image as a first tile: padded to the square, squashed to it, or none."""


TilingSpec: TypeAlias = Annotated[
    FixedTiling | AnyresTiling | GridTiling, Field(discriminator="kind")
]


class Zoom(Spec):
    """A second, finer look at tiles: nothing of it stands in the sequence (DeepStack).

    Each tile that is zoomed is looked at again in a grid of tiles of the same side.
    """

    of: Literal["overview", "tiles"]
    """Zoom the tile of the whole image, or every tile of the sequence."""

    grids: Annotated[tuple[tuple[PositiveInt, PositiveInt], ...], Field(min_length=1)]
    """Candidates as [rows, columns]; the one that shows most of the image is taken."""

    fit: Fit
    """Cut the tile's own view finer, or keep the shape of the image and pad the grid."""
