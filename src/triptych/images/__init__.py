"""Images: decode (safe), plan (integers only), crop (pixels), count (plan to tokens)."""

from triptych.images.arrange import Learned, Run, arrange, padding_mask
from triptych.images.count import image_tokens
from triptych.images.crop import crop_tiles
from triptych.images.decode import ImageInput, ImageLimits, content_hash, image_size, open_image
from triptych.images.layout import TileLayout
from triptych.images.plan import TilePlan, View, Window, plan_tiles
from triptych.images.tiling import AnyresTiling, FixedTiling, GridTiling, TilingSpec, Zoom

__all__ = [
    "AnyresTiling",
    "FixedTiling",
    "GridTiling",
    "ImageInput",
    "ImageLimits",
    "Learned",
    "Run",
    "TileLayout",
    "TilePlan",
    "TilingSpec",
    "View",
    "Window",
    "Zoom",
    "arrange",
    "content_hash",
    "crop_tiles",
    "image_size",
    "image_tokens",
    "open_image",
    "padding_mask",
    "plan_tiles",
]
