"""Reading what a pretrained encoder says about itself: its config and its preprocessing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import AutoConfig, AutoModel, PretrainedConfig
from transformers.image_processing_base import ImageProcessingMixin
from transformers.utils import logging

from triptych.errors import RecipeError
from triptych.towers.family import Triple, square

# Kept although every config has it.
_KEPT = {"model_type"}
# Rebuilt by transformers from the other values.
_DERIVED = {"stage_names", "out_features", "out_indices", "_out_features", "_out_indices"}


@dataclass(frozen=True)
class Preprocessing:
    """What a preprocessor_config.json says.

    Attributes:
        size: side in pixels of what the encoder gets; None where the file leaves it open.
        mean, std: normalisation in the 0..1 range, per RGB channel.
    """

    size: int | None
    mean: Triple
    std: Triple


def read_config(source: str | None) -> dict[str, Any]:
    """The config of a hub id or folder, whole.

    Raises:
        RecipeError: when there is none or it cannot be read.
    """
    try:
        config: dict[str, Any] = AutoConfig.from_pretrained(source).to_dict()
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        raise RecipeError(f"tower {source}: its config cannot be read: {error}") from None
    return config


def complete_config(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The vision part of ``config``: every default written out, the architecture and no more.

    Raises:
        RecipeError: when transformers does not accept the config.
    """
    model_type = config.get("model_type")
    part = config.get("vision_config")
    if isinstance(part, Mapping):
        config = {"model_type": f"{model_type}_vision_model", **part}
    if not isinstance(config.get("model_type"), str):
        raise RecipeError(f"{where}: the config has no model_type")
    known = {key: value for key, value in config.items() if key not in _DERIVED}
    try:
        full = AutoConfig.for_model(**known).to_dict()
    except (ValueError, TypeError, KeyError, StrictDataclassError) as error:
        raise RecipeError(f"{where}: the config is not valid: {error}") from None
    common = PretrainedConfig().to_dict().keys() - _KEPT
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in full.items()
        if key not in common and key not in _DERIVED
    }


def read_weights(
    source: str, config: PretrainedConfig, renamed: Mapping[str, str]
) -> dict[str, Tensor]:
    """The weights of the vision part of a hub id or folder, from safetensors only.

    Args:
        source: the hub id or folder.
        config: of the vision part.
        renamed: patterns of names in whole checkpoints, and what they are in the vision part.

    Raises:
        OSError, ValueError, RuntimeError: as transformers does.
    """
    verbosity = logging.get_verbosity()
    # A whole CLIP is expected to hold a text part; what we miss is checked by the caller.
    logging.set_verbosity_error()
    try:
        encoder, report = AutoModel.from_pretrained(
            source,
            config=config,
            use_safetensors=True,
            output_loading_info=True,
            key_mapping=dict(renamed) or None,
        )
    finally:
        logging.set_verbosity(verbosity)
    absent = report["missing_keys"]
    return {key: value for key, value in encoder.state_dict().items() if key not in absent}


def read_preprocessing(source: str) -> Preprocessing | None:
    """What the preprocessor_config.json (or processor_config.json) of ``source`` says, if any.

    Raises:
        RecipeError: when the file asks for something that a tower does not do.
    """
    try:
        values, _ = ImageProcessingMixin.get_image_processor_dict(source)
    except OSError:
        return None
    factor = values.get("rescale_factor", 1 / 255) if values.get("do_rescale", True) else 1.0
    if abs(factor * 255 - 1) > 1e-3 or values.get("rescale_offset", False):
        raise RecipeError(
            f"tower {source}: its preprocessor rescales pixels by {factor} (offset "
            f"{values.get('rescale_offset', False)}); only 1/255 without offset is supported"
        )
    mean, std = _triple(values.get("image_mean"), 0.0), _triple(values.get("image_std"), 1.0)
    if not values.get("do_normalize", True):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if values.get("include_top", False):
        # EfficientNet's processor divides by std once more.
        red, green, blue = std
        std = (red * red, green * green, blue * blue)
    return Preprocessing(_side(values), mean, std)


def _side(values: Mapping[str, Any]) -> int | None:
    cropped = values.get("do_center_crop", "crop_size" in values)
    size = values.get("crop_size") if cropped else values.get("size")
    if isinstance(size, Mapping):
        if "longest_edge" in size and "merge_size" in values:
            return None  # Qwen-VL's limits of all pixels of an image, not a side
        if "shortest_edge" in size:
            return int(size["shortest_edge"])
        if "height" in size and "width" in size:
            return square([size["height"], size["width"]], "size of the preprocessor")
        return None
    return size if isinstance(size, int) else None


def _triple(value: object, default: float) -> Triple:
    if isinstance(value, (list, tuple)) and len(value) == 3:
        return (float(value[0]), float(value[1]), float(value[2]))
    if isinstance(value, (int, float)):
        return (float(value),) * 3
    return (default,) * 3
