"""Exports as LLaVA and LLaVA-NeXT, loaded by transformers alone."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.export.tiny import NEXT_TILING, TEXT, llava_spec
from tests.model.tiny import TEXTS, answer, picture, turn
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    LlavaForConditionalGeneration,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaProcessor,
)

from triptych.connectors import LinearConnector, MlpConnector
from triptych.errors import RecipeError
from triptych.export import ExportSpec, export_model
from triptych.export.llava import find_obstacles
from triptych.images.tiling import AnyresTiling, FixedTiling, GridTiling
from triptych.language import TrainedTokenizer, TransformersLanguage
from triptych.model.build import initialise
from triptych.model.spec import ModelSpec
from triptych.towers.encoder import TransformersTower
from triptych.towers.small import SmallTower


def saved(folder: Path, spec: ModelSpec) -> tuple[Any, Any]:
    """A model whose new tokens and learnable rows count, and its folder."""
    model, processor = initialise(spec, seed=3, texts=TEXTS)
    torch.manual_seed(1)
    for parameter in (model.new_tokens.weight, model.tile_tokens.weight):  # type: ignore[union-attr]
        if parameter is not None:
            parameter.data.normal_()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model.eval(), processor


@pytest.mark.parametrize(
    "spec",
    [
        llava_spec(),
        llava_spec(tied=True, layer=-1, tiling=FixedTiling(fit="crop")),
        llava_spec(vision="siglip_vision_model", family="qwen2", tied=True),
        llava_spec(family="gemma3_text", tied=True),
        llava_spec(tiling=NEXT_TILING),
        llava_spec(vision="siglip_vision_model", tiling=NEXT_TILING, tied=True),
    ],
    ids=["clip", "crop-tied", "siglip-qwen2", "gemma3", "next", "next-siglip"],
)
@torch.no_grad()
def test_transformers_gives_the_same_answers(tmp_path: Path, spec: ModelSpec) -> None:
    """Logits of two images in two rounds, of a batch, and greedy tokens."""
    ours, processor = saved(tmp_path / "model", spec)
    report = export_model(tmp_path / "model", tmp_path / "out", ExportSpec(format="llava"))
    assert report.check.prompts == 3
    assert report.check.difference < 1e-4
    theirs = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").eval()
    their_processor = AutoProcessor.from_pretrained(tmp_path / "out")
    following = spec.tiling.kind == "anyres"
    kinds = (LlavaNextForConditionalGeneration, LlavaNextProcessor)
    plain = (LlavaForConditionalGeneration, LlavaProcessor)
    assert (type(theirs), type(their_processor)) == (kinds if following else plain)
    first, second = picture(0, (70, 33)), picture(1, (31, 45))
    messages = [turn("a circle?", first), answer("yes"), turn("and image 2?", second)]
    settings: dict[str, Any] = {
        "tokenize": True,
        "return_dict": True,
        "return_tensors": "pt",
        "add_generation_prompt": True,
    }
    mine = processor.apply_chat_template(messages, **settings)
    other = their_processor.apply_chat_template(messages, **settings)
    assert mine["input_ids"].tolist() == other["input_ids"].tolist()
    expected, found = ours(**mine).logits, theirs(**other).logits
    kept = torch.isfinite(expected)
    torch.testing.assert_close(found[kept], expected[kept], atol=2e-5, rtol=1e-5)
    tokens = [
        model.generate(**batch, do_sample=False, max_new_tokens=12).tolist()
        for model, batch in ((ours, mine), (theirs, other))
    ]
    assert tokens[0] == tokens[1]


def test_new_tokens_are_read_and_never_written(tmp_path: Path) -> None:
    """Rows of tags stand in the embedding table; generation leaves their ids out."""
    ours, _ = saved(tmp_path / "model", llava_spec(tied=True))
    export_model(tmp_path / "model", tmp_path / "out", ExportSpec())
    theirs = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    new = ours.new_tokens
    rows = theirs.get_input_embeddings().weight[new.first : new.first + new.count]
    assert torch.equal(rows, new.weight)
    old = theirs.get_input_embeddings().weight[: new.first]
    assert torch.equal(old, ours.get_input_embeddings().weight[: new.first])
    suppressed = list(range(new.first, new.first + new.count))
    assert theirs.generation_config.suppress_tokens == suppressed
    assert theirs.generation_config.eos_token_id == ours.generation_config.eos_token_id


def tower(**fields: Any) -> TransformersTower:
    spec = llava_spec().towers[0]
    assert isinstance(spec, TransformersTower)
    return spec.model_copy(update=fields)


NEXT = NEXT_TILING.model_dump()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"towers": (tower(), tower())}, "2 towers"),
        ({"towers": (SmallTower(size=16, patch=8, hidden=16, depth=1, heads=2),)}, "'small'"),
        ({"towers": (tower(layer=-1, norm=True),)}, "last norm"),
        ({"towers": (tower(size=42),)}, "42 pixels"),
        ({"connector": LinearConnector()}, "connector is 'linear'"),
        ({"connector": MlpConnector(layers=3)}, "3 linear"),
        ({"connector": MlpConnector(input_norm=True)}, "input_norm"),
        ({"connector": MlpConnector(pool=2)}, "2 x 2"),
        ({"tiling": FixedTiling(fit="pad")}, "pads after resizing"),
        ({"tiling": FixedTiling(row_separator=True)}, r"tiling\.row_separator is True"),
        ({"tiling": GridTiling()}, "'grid'"),
        ({"tiling": AnyresTiling(**{**NEXT, "fill": (1, 0, 0)})}, r"tiling\.fill"),
        ({"tiling": AnyresTiling(**{**NEXT, "one_tile": True})}, "without its overview"),
        ({"attention": "mmca"}, "attention is 'mmca'"),
        ({"fusion": {"kind": "cross", "every": 1}}, "fusion is 'cross'"),
    ],
)
def test_what_is_no_llava_is_refused_with_the_reason(
    tmp_path: Path, fields: dict[str, Any], reason: str
) -> None:
    spec = ModelSpec.model_validate({**dict(llava_spec()), **fields})
    model, processor = initialise(spec, texts=TEXTS)
    (obstacle,) = find_obstacles(model)
    assert re.search(reason, obstacle)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    with pytest.raises(RecipeError, match=reason):
        export_model(tmp_path / "model", tmp_path / "out", ExportSpec(format="llava"))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_language_models_with_scaled_logits_are_refused(tmp_path: Path) -> None:
    config = {"model_type": "granite", "logits_scaling": 8.0, **TEXT}
    language = TransformersLanguage(config=config, tokenizer=TrainedTokenizer(vocabulary=300))
    model, _ = initialise(llava_spec(language=language), texts=TEXTS)
    assert find_obstacles(model) == [
        "the language model has logits_scaling 8.0, which LLaVA's head leaves out"
    ]
