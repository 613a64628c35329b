"""Images: decode (safe), plan (integers only), crop (pixels), count (plan to tokens)."""

from triptych.images.count import image_tokens
from triptych.images.crop import crop_tiles
from triptych.images.decode import ImageInput, ImageLimits, content_hash, image_size, open_image
from triptych.images.layout import TileLayout
from triptych.images.plan import FixedTiling, TilePlan, TilingSpec, Window, plan_tiles

__all__ = [
    "FixedTiling",
    "ImageInput",
    "ImageLimits",
    "TileLayout",
    "TilePlan",
    "TilingSpec",
    "Window",
    "content_hash",
    "crop_tiles",
    "image_size",
    "image_tokens",
    "open_image",
    "plan_tiles",
]
