"""Make a model and its processor from a ModelSpec, or load both from a folder."""

from collections.abc import Iterable
from pathlib import Path
from typing import cast

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from triptych.errors import CheckpointError, RecipeError
from triptych.fusion import CrossFusion
from triptych.language import TrainedTokenizer, train_tokenizer
from triptych.model.auto import register
from triptych.model.configuration import Panels, TriptychConfig
from triptych.model.modeling import TriptychForConditionalGeneration
from triptych.model.parts import is_parts, put_parts, read_base
from triptych.model.processing import TriptychProcessor, VisionSettings
from triptych.model.spec import ModelSpec
from triptych.model.template import (
    IMAGE_END,
    IMAGE_START,
    IMAGE_TOKEN,
    choose_family,
    end_token,
    read_template,
)
from triptych.towers import Tower


def make_panels(spec: ModelSpec) -> Panels:
    """Towers, connector, tiling and fusion of a model, with what is read from the towers' sources.

    Raises:
        RecipeError: a source cannot be read, or the panels do not fit together.
    """
    return Panels(
        towers=tuple(tower.resolve() for tower in spec.towers),
        tower_grid=spec.tower_grid,
        connector=spec.connector,
        tiling=spec.tiling,
        fusion=spec.fusion,
    )


def initialise(
    spec: ModelSpec, *, seed: int = 0, texts: Iterable[str] | None = None
) -> tuple[TriptychForConditionalGeneration, TriptychProcessor]:
    """Make a model with the pretrained weights its panels name; the rest is drawn from ``seed``.

    Args:
        spec: the model.
        seed: of the random weights; the caller's random state is left as it was.
        texts: what a tokenizer that the spec says to train is trained on.

    Raises:
        RecipeError: a panel cannot be made, or the panels do not fit together.
    """
    panels = make_panels(spec)
    tokenizer = _make_tokenizer(spec, texts)
    original = len(tokenizer)
    added = [IMAGE_TOKEN, IMAGE_START, IMAGE_END] if spec.template.tags else [IMAGE_TOKEN]
    tokenizer.add_tokens(added, special_tokens=True)
    processor = _make_processor(spec, panels, tokenizer)
    text_config = spec.language.read_config()
    if isinstance(spec.language.load_tokenizer(), TrainedTokenizer):
        text_config |= {
            "vocab_size": len(tokenizer),
            "bos_token_id": None,
            "eos_token_id": processor.end_token_id,
            "pad_token_id": processor.pad_token_id,
        }
    text_config["vocab_size"] = max(len(tokenizer), text_config["vocab_size"])
    config = TriptychConfig(
        panels=panels.model_dump(mode="json"),
        text_config=text_config,
        image_token_id=processor.image_token_id,
        first_new_token_id=original,
        new_tokens=len(tokenizer) - original,
        attention=spec.attention,
        image_scope=spec.image_scope,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        language = spec.language.load_weights()
        if language is not None and language.config.vocab_size < text_config["vocab_size"]:
            language.resize_token_embeddings(text_config["vocab_size"], mean_resizing=False)
        model = TriptychForConditionalGeneration(config, language)
        for tower_spec, tower in zip(panels.towers, model.towers, strict=True):
            tower_spec.load(cast(Tower, tower))
    model.generation_config = GenerationConfig(
        eos_token_id=processor.end_token_id, pad_token_id=processor.pad_token_id
    )
    return model, processor


def _make_tokenizer(spec: ModelSpec, texts: Iterable[str] | None) -> PreTrainedTokenizerBase:
    tokenizer = spec.language.load_tokenizer()
    if not isinstance(tokenizer, TrainedTokenizer):
        return tokenizer
    if texts is None:
        raise RecipeError(
            "model.language.tokenizer: it is trained on the texts of the data, but none were given"
        )
    return train_tokenizer(texts, tokenizer)


def _make_processor(
    spec: ModelSpec, panels: Panels, tokenizer: PreTrainedTokenizerBase
) -> TriptychProcessor:
    family = choose_family(spec.template.family, tokenizer)
    settings = VisionSettings(
        tiling=spec.tiling,
        tile_size=panels.tile_size,
        rows=panels.layout.rows,
        columns=panels.layout.columns,
        prefix=panels.layout.prefix,
        whole_image=panels.layout.whole_image,
        numbered=spec.template.numbered,
        tags=spec.template.tags,
        outside=isinstance(spec.fusion, CrossFusion),
        zoom=panels.zoom,
    )
    return TriptychProcessor(
        tokenizer,
        vision=settings.model_dump(mode="json"),
        end_token=end_token(family, tokenizer),
        chat_template=read_template(family),
    )


def load_pretrained(
    folder: str | Path,
) -> tuple[TriptychForConditionalGeneration, TriptychProcessor]:
    """Load a model and its processor from a folder or hub id.

    A folder of parts (``triptych export --format parts``) is put onto the pretrained weights that
    it names.

    Raises:
        CheckpointError: the folder has no triptych model, weights are missing in it, or its parts
            belong to other pretrained weights.
    """
    register()
    if is_parts(folder):
        spec, seed = read_base(Path(folder))
        model, _ = initialise(spec, seed=seed)
        return put_parts(Path(folder), model).eval(), load_processor(folder)
    model, report = TriptychForConditionalGeneration.from_pretrained(
        str(folder), output_loading_info=True
    )
    missing = sorted(report["missing_keys"])
    if missing:
        raise CheckpointError(
            f"{folder}: {len(missing)} weights are missing, the first is '{missing[0]}'; the "
            "folder is incomplete or of another version"
        )
    return model.eval(), load_processor(folder)


def load_processor(folder: str | Path) -> TriptychProcessor:
    """Load the processor of a model folder or hub id."""
    register()
    return cast(TriptychProcessor, TriptychProcessor.from_pretrained(str(folder)))
