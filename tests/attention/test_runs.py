"""Attention rules from a recipe through training to the judged checkpoint."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.attention.test_model import computed_by_the_oracle, make
from tests.model.tiny import answer, picture, turn
from tests.training.tiny import entries, recipe, stage
from torch import Tensor

from triptych.inference.engine import load_engine
from triptych.model import TriptychForConditionalGeneration
from triptych.recipe import Recipe, load_recipe, save_recipe
from triptych.training.lora import add_lora
from triptych.training.run import train
from triptych.training.tuning import TunedPartSpec

STAGES = (stage("align", steps=2), stage("all", steps=2, train={"language": "lora"}))


def made(folder: Path, rule: str, **data: Any) -> Recipe:
    """A recipe file whose rule is set on the command line."""
    save_recipe(recipe(folder, STAGES, data=data), folder / "recipe.yaml")
    return load_recipe(folder / "recipe.yaml", [f"model.attention={rule}"])


def losses(one: Recipe) -> list[float]:
    train(one.model, one.data, one.stages, one.parallel, one.run)
    return [entry["loss"] for entry in entries(one.run.folder)]


def test_an_override_trains_with_lora_on_cached_features_and_reloads(tmp_path: Path) -> None:
    plain = made(tmp_path / "plain", "mmca")
    cached = made(tmp_path / "cached", "mmca", cache_features=True)
    causal = made(tmp_path / "causal", "causal")
    found = losses(plain)
    assert losses(cached) == pytest.approx(found, rel=1e-3)
    assert losses(causal) != pytest.approx(found, rel=1e-3)
    engine = load_engine(plain.run.folder)
    assert engine.model.config.attention == "mmca"
    assert engine.model.language_model.config._attn_implementation == "triptych_mmca"


def test_lora_with_labels_equals_the_oracle() -> None:
    """Samples of two, one and no image, with the loss on their answers."""
    model, processor = make()
    add_lora(model.language_model, TunedPartSpec(mode="lora", rank=2))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    pictures = [[picture(0), picture(1)], [picture(2)], []]
    prompts = [
        processor.encode([turn("a", *some), answer("yes")], [(20, 16)] * len(some))
        for some in pictures
    ]
    tiles = [[processor.tiles(one) for one in some] for some in pictures]
    batch = processor.collate(prompts, tiles, labels=True)
    found = gradients(model, batch)
    with computed_by_the_oracle("mmca", "self"):
        wanted = gradients(model, batch)
    assert len(found) == len(wanted) > 1
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)


def gradients(model: TriptychForConditionalGeneration, batch: dict[str, Tensor]) -> list[Tensor]:
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    return [loss.detach(), *grads]
